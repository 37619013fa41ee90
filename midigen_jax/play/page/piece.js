// A piece as this page knows it: notes by onset, and the tick up to which nothing is missing.

export class Piece {
  constructor(about, notes = []) {
    Object.assign(this, about); // id, quarter, beat, bar, firstBar, meter, tempo: times in ticks
    this.notes = [];
    this.byName = new Map();
    this.until = 0;
    this.over = false;
    this.isWritten = false;
    this.add(notes);
  }

  // A note is onset, ticks, pitch, track; one that is told again sounds on longer than was known.
  add(notes) {
    for (const [onset, ticks, pitch, track] of notes) {
      const name = `${onset} ${pitch} ${track}`;
      const known = this.byName.get(name);
      if (known) {
        known.ticks = ticks;
        continue;
      }
      const note = { onset, ticks, pitch, track };
      this.byName.set(name, note);
      this.notes.push(note);
    }
  }

  // The first notes that the server tells: with them, whatever was there in their place goes.
  begin(notes) {
    this.notes = [];
    this.byName.clear();
    this.isWritten = true;
    this.add(notes);
  }

  // What is before a tick, as the beginning of another piece.
  before(tick) {
    const kept = this.notes
      .filter((note) => note.onset < tick)
      .map((note) => [note.onset, Math.min(note.ticks, tick - note.onset), note.pitch, note.track]);
    const piece = new Piece(this, kept);
    piece.until = tick;
    return piece;
  }

  get end() {
    return this.notes.reduce((end, note) => Math.max(end, note.onset + note.ticks), this.until);
  }

  // Bars are counted as scores count them: an upbeat is bar 0.
  barOf(tick) {
    return Math.floor((tick - this.firstBar) / this.bar) + 1;
  }

  barBegins(number) {
    return this.firstBar + (number - 1) * this.bar;
  }

  // In words, as people say it.
  placeOf(tick) {
    const bar = this.barOf(tick);
    return `bar ${bar}, beat ${Math.floor((tick - this.barBegins(bar)) / this.beat) + 1}`;
  }

  nearestBeat(tick) {
    const from = this.firstBar % this.beat;
    return Math.max(0, Math.round((tick - from) / this.beat) * this.beat + from);
  }
}
