// The piano roll: time to the right, pitch upwards, a colour a track. It grows while a piece is written.

const QUARTER = 34; // pixels
const TOP = 22; // where bar numbers stand
const DRAG = 6; // pixels before a click is a drag

export class Roll {
  // `onPoint(tick)` and `onMark([tick, tick] or null)` are told what somebody does here.
  constructor(element, { onPoint, onMark }) {
    this.element = element;
    this.space = element.querySelector(".space");
    this.canvas = element.querySelector("canvas");
    this.tell = { onPoint, onMark };
    this.piece = null;
    this.tick = 0;
    this.mark = null;
    this.key = 0;
    this.listen();
    new ResizeObserver(() => this.draw()).observe(element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    element.addEventListener("scroll", () => this.draw());
  }

  show(piece) {
    this.piece = piece;
    this.low = 46;
    this.high = 76;
    this.draw();
  }

  setMark(mark) {
    this.mark = mark;
    this.tell.onMark(mark);
    this.draw();
  }

  get scale() {
    return QUARTER / this.piece.quarter; // pixels a tick
  }

  // Where the line is; while music plays it stays in sight.
  move(tick, follow) {
    this.tick = tick;
    const { scrollLeft, clientWidth } = this.element;
    const place = tick * this.scale;
    if (follow && (place < scrollLeft || place > scrollLeft + 0.8 * clientWidth)) {
      this.element.scrollLeft = Math.max(0, place - 0.15 * clientWidth);
    }
    this.draw();
  }

  listen() {
    const tickAt = (event) => Math.max(0, (event.clientX - this.canvas.getBoundingClientRect().left + this.element.scrollLeft) / this.scale);
    let down = null;
    this.canvas.addEventListener("pointerdown", (event) => {
      if (!this.piece || event.button) return;
      down = { x: event.clientX, tick: tickAt(event), dragged: false };
      this.canvas.setPointerCapture(event.pointerId);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!down || Math.abs(event.clientX - down.x) < DRAG) return;
      down.dragged = true;
      this.setMark(this.bars(down.tick, tickAt(event)));
    });
    this.canvas.addEventListener("pointerup", (event) => {
      if (down && !down.dragged) {
        this.setMark(null);
        this.tell.onPoint(this.piece.nearestBeat(tickAt(event)));
      }
      down = null;
    });
    this.element.addEventListener("keydown", (event) => this.pressed(event));
  }

  pressed(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!this.piece) return;
    const { piece } = this;
    if (step && event.shiftKey) {
      const [from, to] = this.mark ?? [piece.barBegins(piece.barOf(this.tick)), 0];
      const end = this.mark ? to + step * piece.bar : from + piece.bar;
      this.setMark(end > from ? this.bars(from, end - 1) : null);
    } else if (step) {
      this.tell.onPoint(Math.min(piece.nearestBeat(this.tick) + step * piece.beat, piece.end));
    } else if (event.key === "Home" || event.key === "End") {
      this.tell.onPoint(event.key === "Home" ? 0 : piece.end);
    } else if (event.key === "Escape") {
      this.setMark(null);
    } else return;
    event.preventDefault();
  }

  // Whole bars around two ticks, inside of what there is.
  bars(one, other) {
    const { piece } = this;
    const inside = (tick) => Math.max(0, Math.min(tick, piece.end - 1));
    const [from, to] = [Math.min(one, other), Math.max(one, other)].map(inside);
    const begin = Math.max(0, piece.barBegins(piece.barOf(from)));
    return [begin, piece.barBegins(piece.barOf(to) + 1)];
  }

  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      this.paint();
    });
  }

  paint() {
    const { element, canvas, piece } = this;
    const [width, height] = [element.clientWidth, element.clientHeight];
    const dense = devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * dense) || canvas.height !== Math.round(height * dense)) {
      canvas.width = Math.round(width * dense);
      canvas.height = Math.round(height * dense);
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(dense, 0, 0, dense, 0, 0);
    pen.clearRect(0, 0, width, height);
    if (!piece) return;
    const end = Math.max(piece.end, piece.until);
    this.space.style.width = `${Math.max(width, (end + piece.bar) * this.scale)}px`;
    const style = getComputedStyle(element);
    this.colour = (name) => style.getPropertyValue(`--${name}`);
    for (const note of piece.notes) {
      this.low = Math.min(this.low, note.pitch - 2);
      this.high = Math.max(this.high, note.pitch + 2);
    }
    const rows = this.high - this.low + 1;
    const row = (height - TOP) / rows;
    const x = (tick) => tick * this.scale - element.scrollLeft;
    const y = (pitch) => TOP + (this.high - pitch) * row;
    this.paintPaper(pen, x, y, row, width, height);
    this.paintNotes(pen, x, y, row, width);
    this.paintNames(pen, y, row);
    this.paintLine(pen, x(this.tick), height);
  }

  paintPaper(pen, x, y, row, width, height) {
    const { piece } = this;
    pen.fillStyle = this.colour("black-key");
    for (let pitch = this.low; pitch <= this.high; pitch++) {
      if ([1, 3, 6, 8, 10].includes(pitch % 12)) pen.fillRect(0, y(pitch), width, row);
    }
    if (!piece.over) {
      pen.fillStyle = this.colour("unwritten");
      pen.fillRect(x(piece.until), TOP, width, height);
    }
    if (this.mark) {
      pen.fillStyle = this.colour("mark");
      pen.fillRect(x(this.mark[0]), 0, x(this.mark[1]) - x(this.mark[0]), height);
    }
    pen.font = "12px system-ui, sans-serif";
    pen.textBaseline = "middle";
    const from = piece.barOf((this.element.scrollLeft / this.scale));
    for (let bar = from; x(piece.barBegins(bar)) < width; bar++) {
      const begin = piece.barBegins(bar);
      for (let tick = begin; tick < begin + piece.bar; tick += piece.beat) {
        pen.fillStyle = this.colour(tick === begin ? "edge" : "line");
        if (tick >= 0) pen.fillRect(Math.round(x(tick)), tick === begin ? 0 : TOP, 1, height);
      }
      pen.fillStyle = this.colour("soft");
      if (begin >= 0) pen.fillText(bar, x(begin) + 5, TOP / 2 + 1);
    }
    pen.fillStyle = this.colour("edge");
    for (let pitch = this.low; pitch <= this.high; pitch++) {
      if (pitch % 12 === 0) pen.fillRect(0, Math.round(y(pitch) + row), width, 1);
    }
  }

  paintNotes(pen, x, y, row, width) {
    for (const { onset, ticks, pitch, track } of this.piece.notes) {
      const [left, right] = [x(onset), x(onset + ticks)];
      if (right < 0 || left > width) continue;
      const sounds = onset <= this.tick && this.tick < onset + ticks;
      pen.fillStyle = this.colour(`voice-${track % 8}`);
      pen.globalAlpha = sounds ? 1 : 0.72;
      pen.beginPath();
      pen.roundRect(left + 0.5, y(pitch) + 0.5, Math.max(right - left - 1.5, 2), Math.max(row - 1, 2), 2.5);
      pen.fill();
    }
    pen.globalAlpha = 1;
  }

  // Above the notes, since these go under them as the roll moves.
  paintNames(pen, y, row) {
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = this.colour("soft");
    for (let pitch = this.low; pitch <= this.high; pitch++) {
      if (pitch % 12 === 0) pen.fillText(`C${pitch / 12 - 1}`, 4, y(pitch) + row / 2);
    }
  }

  paintLine(pen, place, height) {
    pen.fillStyle = this.colour("accent");
    pen.fillRect(place - 0.75, 0, 2, height);
    pen.beginPath();
    pen.moveTo(place - 6, 0);
    pen.lineTo(place + 6.5, 0);
    pen.lineTo(place + 0.25, 9);
    pen.fill();
  }
}
