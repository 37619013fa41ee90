// The page: its controls, and what they have the server, the roll and the sound do.

import * as api from "./api.js";
import { Piece } from "./piece.js";
import { Roll } from "./roll.js";
import { Player } from "./sound.js";

const at = (id) => document.getElementById(id);
const value = (id) => Number(at(id).value);
const LONGEST_SCORE = 200; // bars that are shown in notation

let model; // what the server says of it
let piece = null;
let asked = null; // what the piece was written from: a body of /api/write
let writing = null; // ends what is being written
let engraving = null; // ends a score that is being made
let busy = false; // particles are at work
let most = 0; // bytes of a file

const roll = new Roll(at("roll"), { onPoint: goTo, onMark: refresh });
const player = new Player(refresh);

// ---- what is said

function say(text) {
  at("status").textContent = text;
}

function complain(error) {
  if (error.name === "AbortError") return;
  at("error").hidden = false;
  at("error").querySelector("p").textContent = error.message;
  say("");
}

function forgive() {
  at("error").hidden = true;
}

// ---- what a piece does

function show(next, tick) {
  piece = next;
  roll.show(piece);
  roll.setMark(null);
  player.at = tick;
  at("roll").querySelector(".empty").hidden = true;
  document.querySelector(".score").hidden = true;
  roll.move(tick, true);
  refresh();
}

// Nothing came of a piece: what was there before it is there again.
function giveBack(previous, tick) {
  player.stop();
  if (previous) return show(previous, Math.min(tick, previous.end));
  piece = null;
  at("roll").querySelector(".empty").hidden = false;
}

// Write a piece, after another one up to a tick, or from nothing; what plays goes on.
async function write(body, beginning, tick, pressed) {
  writing?.abort();
  engraving?.abort();
  const own = (writing = new AbortController());
  player.wake(pressed);
  forgive();
  say("Writing …");
  asked = body;
  const next = beginning ?? new Piece({ quarter: 12, beat: 12, bar: 48, firstBar: 0, tempo: value("tempo") });
  const goesOn = player.playing && beginning !== null;
  const previous = piece;
  let isTaken = false;
  show(next, tick);
  if (goesOn) player.swap(next);
  else player.start(next, tick);
  try {
    for await (const line of api.lines("/api/write", body, own.signal)) {
      if (line.error) throw new Error(line.error);
      if (line.id) {
        isTaken = true;
        const known = beginning ? {} : { tempo: line.tempo };
        Object.assign(next, line, known);
        if (!beginning && !tempoIsSet) setTempo(line.tempo);
      } else if (line.waiting) say(`All rows are taken: number ${line.waiting} in the line`);
      else if (line.notes) {
        if (!next.isWritten) next.begin(line.notes);
        else next.add(line.notes);
        next.until = line.until;
        say("Writing …");
      } else if (line.over) next.over = true;
      refresh();
      roll.draw();
    }
    if (!next.over) throw new Error("The server stopped in the middle of the piece; start it again.");
  } catch (error) {
    next.over = true;
    complain(error);
    if (!isTaken && own === writing) giveBack(previous, tick);
  }
  if (own === writing) {
    writing = null;
    refresh();
    if (next.notes.length) engrave();
    if (next.remarks?.length) say(next.remarks.join(" "));
  }
}

function wish(after = null) {
  const temperature = {};
  for (const name of model.streams) temperature[name] = value(`temperature-${name}`);
  return { temperature, top_p: value("top_p"), bars: value("bars"), seed: value("seed"), after };
}

function another() {
  at("seed").value = crypto.getRandomValues(new Uint32Array(1))[0] % 100000;
}

// A piece that is there as a whole: from a file, or written by particles.
function take(whole, tick) {
  const next = new Piece(whole, whole.notes);
  next.until = whole.until;
  next.over = true;
  player.stop();
  show(next, tick);
  engrave();
}

async function around(path, extra, words) {
  busy = true;
  forgive();
  say(words);
  refresh();
  const tick = roll.tick;
  const [stream] = model.streams;
  try {
    const temperature = Math.max(0.1, value(`temperature-${stream}`));
    const how = { id: piece.id, particles: 2 ** value("particles"), seed: value("seed"), temperature };
    const from = piece;
    const whole = await api.post(path, { ...how, ...extra });
    say("");
    if (piece !== from) return; // somebody has begun something else
    asked = null;
    const mark = extra.bars && [Math.max(0, from.barBegins(extra.bars[0])), from.barBegins(extra.bars[1] + 1)];
    take(whole, mark ? mark[0] : Math.min(tick, whole.until));
    if (mark) roll.setMark(mark);
  } catch (error) {
    complain(error);
  } finally {
    busy = false;
    refresh();
  }
}

// ---- the buttons

at("play").onclick = (event) => {
  if (player.playing) {
    player.stop();
    return refresh();
  }
  if (!piece) return write(wish(), null, 0, event.timeStamp);
  player.wake();
  player.start(piece, roll.tick >= piece.end ? 0 : roll.tick);
  refresh();
};

at("new").onclick = (event) => {
  player.stop();
  if (piece) another();
  write(wish(), null, 0, event.timeStamp);
};

at("goon").onclick = (event) => {
  let tick = player.playing ? player.position() + piece.beat : roll.tick;
  tick = Math.min(piece.nearestBeat(tick), piece.end);
  if (tick <= 0) return complain(new Error("There is nothing before the line: set it further right."));
  another();
  write(wish({ id: piece.id, tick }), piece.before(tick), roll.tick, event.timeStamp);
};

at("variation").onclick = (event) => {
  another();
  const { after } = asked;
  player.stop();
  const beginning = after ? piece.before(after.tick) : null;
  write(wish(after), beginning, after ? Math.max(0, after.tick - piece.bar) : 0, event.timeStamp);
};

at("harmonise").onclick = () => around("/api/harmonise", {}, "Harmonising: weighing many pieces …");

at("fill").onclick = () => {
  const [begin, end] = roll.mark;
  const voices = model.voices.filter((name) => at(`voice-${name}`).checked);
  if (!voices.length) return complain(new Error("No voice is chosen: choose some of those that are filled in."));
  const bars = [piece.barOf(begin), piece.barOf(end - 1)];
  around("/api/fill", { bars, voices }, `Filling in bars ${bars[0]} to ${bars[1]} …`);
};

at("another").onclick = another;
at("error").querySelector("button").onclick = forgive;

function goTo(tick) {
  if (player.playing) player.start(piece, tick);
  else player.at = tick;
  roll.move(tick, true);
  refresh();
}

document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|BUTTON|LABEL)$/.test(event.target.tagName) && event.target.type !== "range";
  if (event.key !== " " || typing) return;
  event.preventDefault();
  at("play").click();
});

// ---- files

async function drop(chosen) {
  forgive();
  if (chosen.size > most) {
    const size = (chosen.size / 1e6).toFixed(1);
    return complain(new Error(`${chosen.name} has ${size} MB: give a file of ${most / 1e6} MB or less.`));
  }
  say(`Reading ${chosen.name} …`);
  try {
    const whole = await api.drop(chosen);
    writing?.abort();
    writing = null;
    asked = null;
    setTempo(whole.tempo);
    take(whole, 0);
    say(chosen.name);
  } catch (error) {
    complain(error);
  }
}

at("file").onchange = () => {
  if (at("file").files.length) drop(at("file").files[0]);
  at("file").value = "";
};
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files.length) drop(event.dataTransfer.files[0]);
});

const pathOf = (kind) => `/api/piece/${piece.id}.${kind}?key=${value("key")}&tempo=${value("tempo")}`;

for (const button of document.querySelectorAll("[data-kind]")) {
  button.onclick = async () => {
    forgive();
    try {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(await api.file(pathOf(button.dataset.kind)));
      link.download = `${model.name}-${value("seed")}.${button.dataset.kind}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // some browsers read it after the click
    } catch (error) {
      complain(error);
    }
  };
}

async function engrave() {
  engraving?.abort();
  const own = (engraving = new AbortController());
  if (piece.barOf(piece.end) > LONGEST_SCORE) return;
  try {
    const blob = await api.file(pathOf("svg"), own.signal);
    URL.revokeObjectURL(at("score").src);
    at("score").src = URL.createObjectURL(blob);
    document.querySelector(".score").hidden = false;
  } catch (error) {
    complain(error);
  }
}

// ---- the controls

const SHOWN = {
  top_p: (p) => (p === 1 ? "all" : p.toFixed(2)),
  bars: (n) => (n === 1 ? "1 bar" : `${n} bars`),
  tempo: (n) => `${n} a minute`,
  key: (n) => (n ? `${Math.abs(n)} semitone${Math.abs(n) > 1 ? "s" : ""} ${n > 0 ? "up" : "down"}` : "as written"),
  volume: (n) => `${n} %`,
  particles: (n) => 2 ** n,
};
let tempoIsSet = false;

function setTempo(tempo) {
  at("tempo").min = Math.min(at("tempo").min, Math.floor(tempo));
  at("tempo").max = Math.max(at("tempo").max, Math.ceil(tempo));
  at("tempo").value = tempo;
  at("tempo").dispatchEvent(new Event("input"));
  tempoIsSet = false;
}

function tell(input) {
  const text = (SHOWN[input.id] ?? ((number) => number.toFixed(2)))(Number(input.value));
  input.setAttribute("aria-valuetext", text);
  document.querySelector(`output[for="${input.id}"]`).textContent = text;
}

function heed(input) {
  tell(input);
  input.addEventListener("input", () => {
    tell(input);
    if (input.id === "tempo") {
      tempoIsSet = true;
      player.set("tempo", value("tempo"));
    }
    if (input.id === "key") player.set("key", value("key"));
    if (input.id === "volume") player.set("volume", (value("volume") / 100) ** 1.5);
  });
  if (input.id === "key") input.addEventListener("change", () => piece?.over && engrave());
}

function refresh() {
  const there = piece !== null && piece.notes.length > 0;
  at("play").textContent = player.playing ? "Stop" : "Play";
  at("goon").disabled = !there;
  at("variation").disabled = !there || asked === null;
  at("harmonise").disabled = at("fill").disabled = !there || !piece.over || busy || !model.voices.length;
  at("fill").disabled ||= roll.mark === null;
  for (const button of document.querySelectorAll("[data-kind]")) button.disabled = !there || !piece.over;
  if (piece?.over && at("status").textContent === "Writing …") say("");
  const place = at("roll");
  place.setAttribute("aria-valuemax", piece ? piece.end : 0);
  place.setAttribute("aria-valuenow", Math.round(roll.tick));
  if (!piece) return;
  const bars = roll.mark ? `bars ${piece.barOf(roll.mark[0])} to ${piece.barOf(roll.mark[1] - 1)} are marked` : "";
  const words = [piece.placeOf(roll.tick), bars].filter(Boolean).join(" · ");
  place.setAttribute("aria-valuetext", words);
  at("place").textContent = words;
}

function frame() {
  if (player.playing) {
    roll.move(player.position(), true);
    refresh();
  }
  requestAnimationFrame(frame);
}

async function begin() {
  model = await api.model();
  at("model").textContent = model.name;
  most = model.most.bytes;
  at("bars").max = Math.min(64, model.most.bars);
  at("file").accept = model.suffixes.join(",");
  document.querySelector(".drop .hint").textContent = `${model.suffixes.join(" ")}, up to ${most / 1e6} MB`;
  at("temperatures").innerHTML = "";
  for (const name of model.streams) {
    const id = `temperature-${name}`;
    const label = Object.assign(document.createElement("label"), { htmlFor: id, textContent: `Temperature of ${name}` });
    const output = document.createElement("output");
    output.setAttribute("for", id);
    label.append(output);
    const slider = Object.assign(document.createElement("input"), { type: "range", id, min: 0, max: 2, step: 0.05 });
    slider.value = 1;
    at("temperatures").append(label, slider);
  }
  for (const name of model.voices) {
    const box = Object.assign(document.createElement("input"), { type: "checkbox", id: `voice-${name}`, checked: true });
    const label = document.createElement("label");
    label.append(box, name);
    at("voices").append(label);
  }
  for (const part of document.querySelectorAll(".voices")) part.hidden = !model.voices.length;
  for (const input of document.querySelectorAll('input[type="range"]')) heed(input);
  player.tempo = value("tempo");
  another();
  refresh();
  frame();
}

begin().catch(complain);
