// Plays one clip at a time as a gapless loop: decoded once, looped by the audio clock.
(() => {
  "use strict";
  const studio = (window.VampStudio = window.VampStudio || {});
  const RATE = 44100;
  const FADE = 0.008;
  const MOST_SECONDS = 1500;
  let context = null;
  let current = null; // {key, node, gain, since, from, length}
  let wanted = null; // the key that was asked for last, while it may still be loading
  const buffers = new Map();
  const listeners = new Map(); // function -> the element it serves

  function tell() {
    for (const [listener, element] of [...listeners]) {
      if (element.isConnected) listener();
      else listeners.delete(listener);
    }
  }
  const address = (path) => "gradio_api/file=" + path.split("/").map(encodeURIComponent).join("/").replace(/%3A/g, ":");

  function load(path) {
    if (!buffers.has(path)) {
      const decoded = fetch(address(path))
        .then((answer) => {
          if (!answer.ok) throw new Error("The sound is no longer there: vamp again.");
          return answer.arrayBuffer();
        })
        .then((bytes) => context.decodeAudioData(bytes));
      decoded.catch(() => buffers.delete(path));
      buffers.set(path, decoded);
      decoded.then(forget, () => {});
    }
    return buffers.get(path);
  }

  // The oldest go when more than some minutes are held.
  async function forget() {
    let seconds = 0;
    for (const path of [...buffers.keys()].reverse()) {
      seconds += (await buffers.get(path)).duration;
      if (seconds > MOST_SECONDS && path !== wanted) buffers.delete(path);
    }
  }

  function silence() {
    if (!current) return;
    const { node, gain } = current;
    gain.gain.setTargetAtTime(0, context.currentTime, FADE / 3);
    node.stop(context.currentTime + 2 * FADE);
    current = null;
  }

  // track: {sound, start, end}, in seconds of the file; start and end are where it loops.
  async function start(track, share = null) {
    context = context || new AudioContext({ sampleRate: RATE });
    wanted = keyOf(track);
    tell();
    context.resume();
    try {
      const buffer = await load(track.sound);
      if (wanted !== keyOf(track)) return;
      const from = track.start || 0;
      const length = (track.end || buffer.duration) - from;
      // The same length as what plays now: go on at the same place, so that takes can be compared.
      const kept = current && Math.abs(current.length - length) < 0.001 ? position() : 0;
      const offset = (share === null ? kept : share) * length;
      silence();
      const node = context.createBufferSource();
      const gain = context.createGain();
      node.buffer = buffer;
      node.loop = true;
      node.loopStart = from;
      node.loopEnd = from + length;
      gain.gain.setValueAtTime(0, context.currentTime);
      gain.gain.linearRampToValueAtTime(1, context.currentTime + FADE);
      node.connect(gain).connect(context.destination);
      node.start(0, from + offset);
      current = { key: wanted, node, gain, since: context.currentTime - offset, length };
    } catch (error) {
      wanted = null;
      throw error;
    } finally {
      tell();
    }
  }

  const keyOf = (track) => (track ? `${track.sound}|${track.start || 0}|${track.end || 0}` : null);

  // Where the loop is, 0 to 1.
  function position() {
    if (!current) return 0;
    const passed = Math.max(0, context.currentTime - current.since);
    return (passed % current.length) / current.length;
  }

  function stop() {
    wanted = null;
    silence();
    tell();
  }

  studio.player = {
    start,
    stop,
    position,
    address,
    isWanted: (track) => wanted !== null && wanted === keyOf(track),
    isPlaying: (track) => current !== null && current.key === keyOf(track),
    onChange: (element, listener) => listeners.set(listener, element),
  };

  // A number of buttons that each stand for a choice.
  studio.choices = (element, trigger, read) => {
    element.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) trigger("select", read(button.dataset));
    });
  };

  studio.bytes = (text, kind) => {
    const raw = atob(text);
    const out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return new kind(out.buffer);
  };

  // A canvas as sharp as the screen; returns its context and its size in CSS pixels.
  studio.prepare = (canvas) => {
    const ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    const wide = Math.round(width * ratio);
    const high = Math.round(height * ratio);
    if (canvas.width !== wide) canvas.width = wide;
    if (canvas.height !== high) canvas.height = high;
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    return { pen, width, height };
  };

  // A waveform; colour(i, n) gives that of column i.
  studio.drawWave = (pen, wave, left, top, width, height, colour) => {
    const n = wave.length / 2;
    const middle = top + height / 2;
    for (let x = 0; x < width; x++) {
      const first = Math.floor((x * n) / width);
      const last = Math.max(first + 1, Math.floor(((x + 1) * n) / width));
      let low = 127;
      let high = -128;
      for (let i = first; i < last && i < n; i++) {
        low = Math.min(low, wave[i]);
        high = Math.max(high, wave[n + i]);
      }
      pen.fillStyle = colour(x / width);
      const up = Math.max(0.5, (high / 127) * (height / 2));
      const down = Math.max(0.5, (-low / 127) * (height / 2));
      pen.fillRect(left + x, middle - up, 1, up + down);
    }
  };

  // Moves a position line while its track plays.
  studio.follow = (line, track, place) => {
    const step = () => {
      const playing = studio.player.isPlaying(track());
      line.hidden = !playing;
      if (!playing) return;
      line.style.left = place(studio.player.position());
      requestAnimationFrame(step);
    };
    studio.player.onChange(line, () => requestAnimationFrame(step));
  };
})();
