// Plays a piece, also one that is still growing: notes are handed to the sound card a little before their time.

const AHEAD = 0.2; // seconds
const AHEAD_HIDDEN = 2.5; // a page that nobody sees is woken once a second
const LEAD = 0.05; // between knowing a note and hearing it
const RELEASE = 0.09;

export class Player {
  constructor(onEnd) {
    this.onEnd = onEnd;
    this.tempo = 90; // quarters a minute
    this.key = 0; // semitones up
    this.volume = 0.7;
    this.voices = new Set();
    this.timer = null;
  }

  get playing() {
    return this.timer !== null;
  }

  // To be called when somebody presses a button: browsers let no page sound before. `pressed` is measured from.
  wake(pressed = null) {
    this.pressed = pressed;
    if (!this.context) this.build();
    this.context.resume();
  }

  build() {
    const context = (this.context = new AudioContext({ latencyHint: "interactive" }));
    const level = (this.level = new GainNode(context, { gain: this.volume }));
    const limiter = new DynamicsCompressorNode(context, { threshold: -14, ratio: 6, attack: 0.004 });
    const room = new ConvolverNode(context, { buffer: echo(context) });
    this.input = new GainNode(context, { gain: 0.3 });
    this.input.connect(limiter);
    this.input.connect(room).connect(new GainNode(context, { gain: 0.5 })).connect(limiter);
    limiter.connect(level).connect(context.destination);
    const partials = Float32Array.from({ length: 14 }, (_, n) => (n ? 1 / n ** 1.9 : 0));
    this.wave = context.createPeriodicWave(new Float32Array(partials.length), partials);
  }

  start(piece, tick) {
    this.stop();
    this.piece = piece;
    this.from = tick; // all that begins before it is handed over
    this.anchor = { time: this.context.currentTime + LEAD, tick };
    for (const note of piece.notes) {
      if (note.onset < tick && note.onset + note.ticks > tick) this.strike(note, this.anchor.time);
    }
    this.timer = setInterval(() => this.step(), 20);
    this.step();
  }

  // Go on with another piece, which has been the same up to where this one is.
  swap(piece) {
    this.piece = piece;
    if (this.playing) this.step();
  }

  stop() {
    if (this.context) this.at = this.position();
    clearInterval(this.timer);
    this.timer = null;
    const now = this.context?.currentTime ?? 0;
    for (const voice of this.voices) this.release(voice, Math.min(now, voice.ends ?? now));
    this.voices.clear();
  }

  position() {
    if (!this.playing) return this.at ?? 0;
    const passed = Math.max(0, this.context.currentTime - this.anchor.time);
    return Math.min(this.anchor.tick + passed * this.rate, this.piece.over ? this.piece.end : Infinity);
  }

  set(name, value) {
    if (this.playing) this.anchor = { time: this.context.currentTime, tick: this.position() };
    this[name] = value;
    this.level?.gain.setTargetAtTime(this.volume, this.context.currentTime, 0.02);
  }

  get rate() {
    return (this.piece.quarter * this.tempo) / 60; // ticks a second
  }

  timeOf(tick) {
    return this.anchor.time + (tick - this.anchor.tick) / this.rate;
  }

  step() {
    const { piece, context } = this;
    const now = context.currentTime;
    // What is not written cannot be played: the clock waits.
    if (!piece.over && this.timeOf(piece.until) < now + LEAD) {
      this.anchor = { time: now + LEAD, tick: Math.max(piece.until, this.anchor.tick) };
    }
    const horizon = now + (document.hidden ? AHEAD_HIDDEN : AHEAD);
    const reach = this.anchor.tick + (horizon - this.anchor.time) * this.rate;
    const to = piece.over ? reach : Math.min(reach, piece.until);
    for (let place = first(piece.notes, this.from); place < piece.notes.length; place++) {
      const note = piece.notes[place];
      if (note.onset >= to) break;
      this.strike(note, Math.max(this.timeOf(note.onset), now));
    }
    this.from = Math.max(this.from, to);
    for (const voice of this.voices) {
      const end = voice.note.onset + voice.note.ticks;
      // One that sounds where writing is may turn out to be longer.
      if (!voice.ends && (piece.over || end < piece.until) && end <= reach) this.release(voice, this.timeOf(end));
      if (voice.ends && voice.ends < now - 1) this.voices.delete(voice);
    }
    if (piece.over && this.position() >= piece.end) {
      this.stop();
      this.onEnd();
    }
  }

  strike(note, time) {
    const { context } = this;
    const frequency = 440 * 2 ** ((note.pitch + this.key - 69) / 12);
    const source = new OscillatorNode(context, { periodicWave: this.wave, type: "custom", frequency });
    const dark = new BiquadFilterNode(context, { type: "lowpass", frequency: frequency * 5 });
    const gain = new GainNode(context, { gain: 0 });
    const loud = 0.5 * 2 ** ((60 - note.pitch) / 48);
    gain.gain.setValueAtTime(0, time);
    gain.gain.linearRampToValueAtTime(loud, time + 0.012);
    gain.gain.setTargetAtTime(0.4 * loud, time + 0.012, 0.7);
    dark.frequency.setTargetAtTime(frequency * 2.5, time, 0.5);
    source.connect(dark).connect(gain).connect(this.input);
    source.start(time);
    this.voices.add({ note, source, gain, begins: time });
    if (this.pressed !== null) {
      const heard = performance.now() + (time - context.currentTime) * 1000;
      performance.measure("first sound", { start: this.pressed, end: heard });
      this.pressed = null;
    }
  }

  release(voice, time) {
    const at = Math.max(time, this.context.currentTime);
    voice.ends = at;
    voice.gain.gain.cancelScheduledValues(at);
    voice.gain.gain.setTargetAtTime(0, at, RELEASE);
    voice.source.stop(at + 8 * RELEASE);
  }
}

// The place of the first note that begins at a tick or later.
function first(notes, tick) {
  let [low, high] = [0, notes.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (notes[middle].onset < tick) low = middle + 1;
    else high = middle;
  }
  return low;
}

// A small room: noise that dies away.
function echo(context) {
  const length = Math.round(1.4 * context.sampleRate);
  const buffer = new AudioBuffer({ numberOfChannels: 2, length, sampleRate: context.sampleRate });
  for (let channel = 0; channel < 2; channel++) {
    const data = buffer.getChannelData(channel);
    for (let n = 0; n < length; n++) data[n] = (Math.random() * 2 - 1) * (1 - n / length) ** 3.5;
  }
  return buffer;
}
