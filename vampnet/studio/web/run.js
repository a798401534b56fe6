// Voices whose loops all began at the same sample, so that they stay in phase. Needs no other script.
(() => {
  "use strict";
  const studio = (window.VampStudio = window.VampStudio || {});
  // Seconds. All gains approach their targets exponentially with one time constant, so while one track gives way to another
  // their gains always add up to what they were, however often and quickly somebody switches.
  const TAU = 0.006;
  const OPENING = 0.003;

  const modulo = (a, n) => ((a % n) + n) % n;

  // On any audio context, an offline one too. A voice is connected by `add` and sounds from `start` on; between the two belongs
  // `whenConnected` where the audio thread is at work already. Tracks of different lengths each loop on their own length.
  studio.makeRun = (context, output) => {
    const rate = context.sampleRate;
    const bus = context.createGain();
    const voices = new Map();
    let origin = 0;
    bus.gain.value = 0;
    bus.connect(output);

    const started = (key) => voices.get(key)?.from !== undefined;

    // All loops began at the sample `first`; they are heard from `begin` on.
    function open(first, begin) {
      origin = first;
      bus.gain.setTargetAtTime(1, begin / rate, OPENING);
    }

    function add(key, buffer) {
      const node = context.createBufferSource();
      const gain = context.createGain();
      node.buffer = buffer;
      node.loop = true;
      node.connect(gain).connect(bus);
      voices.set(key, { node, gain, frames: buffer.length, from: undefined });
    }

    function start(key, level, frame) {
      const voice = voices.get(key);
      if (!voice) return;
      voice.gain.gain.value = level;
      voice.from = frame;
      voice.node.start(frame / rate, modulo(frame - origin, voice.frames) / rate);
    }

    function level(key, value, frame) {
      voices.get(key)?.gain.gain.setTargetAtTime(value, frame / rate, TAU);
    }

    // Takes back the levels that were to come from a sample on.
    function cancel(frame) {
      for (const { gain } of voices.values()) gain.gain.cancelScheduledValues(frame / rate);
    }

    function drop(key, frame) {
      const voice = voices.get(key);
      if (!voice) return;
      const begun = started(key);
      voices.delete(key);
      if (!begun) return voice.gain.disconnect();
      voice.gain.gain.setTargetAtTime(0, frame / rate, TAU);
      voice.node.onended = () => voice.gain.disconnect();
      voice.node.stop(frame / rate + 16 * TAU);
    }

    function end(frame) {
      bus.gain.setTargetAtTime(0, frame / rate, OPENING);
      for (const { node, from } of voices.values()) if (from !== undefined) node.stop(frame / rate + 16 * OPENING);
      setTimeout(() => bus.disconnect(), 1000);
    }

    // For one that nobody has heard.
    function discard() {
      bus.disconnect();
      for (const { node, from } of voices.values()) if (from !== undefined) node.stop();
    }

    return {
      get origin() {
        return origin;
      },
      open, add, start, level, cancel, drop, end, discard,
      has: started,
      keys: () => [...voices.keys()].filter(started),
      frames: (key) => voices.get(key)?.frames,
      from: (key) => voices.get(key)?.from ?? 0,
    };
  };

  // Resolves once the audio thread has taken over all connections made so far. It does that when it comes to it, and on a busy
  // machine it renders many blocks at a stretch before: a loop told to start while its connection was on the way would begin
  // with the first block that it is part of, late, and stay out of phase. That a sound is over it tells after that.
  studio.whenConnected = (context) =>
    new Promise((resolve) => {
      const probe = context.createBufferSource();
      probe.buffer = context.createBuffer(1, 1, context.sampleRate);
      probe.connect(context.destination);
      probe.onended = () => {
        probe.disconnect();
        resolve();
      };
      probe.start();
    });
})();
