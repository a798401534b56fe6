// The tape and the metronome of the recorder: samples with their place on the audio clock, clicks on it, a WAV file of floats.
(() => {
  "use strict";
  const studio = (window.VampStudio = window.VampStudio || {});

  // Runs on the audio thread: what comes in, in blocks of up to 1024, each with the number of its first frame. Where frames are
  // missing, a block ends early: what was there before the gap is kept.
  const TAPE = `registerProcessor("vamp-tape", class extends AudioWorkletProcessor {
    constructor() { super(); this.held = null; this.at = 0; this.frame = 0; }
    send() {
      const channels = this.held.map((one) => one.slice(0, this.at)); this.held = null;
      this.port.postMessage({ frame: this.frame, channels }, channels.map((one) => one.buffer));
    }
    process([input]) {
      if (this.held && (this.held.length !== input.length || this.frame + this.at !== currentFrame)) this.send();
      if (!input.length) return true;
      if (!this.held) { this.held = input.map(() => new Float32Array(1024)); this.at = 0; this.frame = currentFrame; }
      input.forEach((samples, c) => this.held[c].set(samples, this.at));
      this.at += input[0].length;
      if (this.at >= 1024) this.send();
      return true;
    }
  });`;

  // Safari opens no microphone to a page that says it only plays, as the player does.
  const session = (type) => navigator.audioSession && (navigator.audioSession.type = type);

  studio.tape = {
    worklet: TAPE,

    // An open microphone, as the musician hears it: nothing that is made for speech.
    async open() {
      if (!navigator.mediaDevices || !window.AudioWorkletNode) throw new DOMException("", "SecurityError");
      const wish = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: { ideal: 2 } };
      session("play-and-record");
      const stream = await navigator.mediaDevices.getUserMedia({ audio: wish }).catch((error) => {
        session("playback");
        throw error;
      });
      const context = new AudioContext({ latencyHint: "interactive" });
      const close = () => {
        stream.getTracks().forEach((track) => track.stop());
        context.close();
        session("playback");
      };
      try {
        await context.resume();
        const module = URL.createObjectURL(new Blob([TAPE], { type: "text/javascript" }));
        await context.audioWorklet.addModule(module);
        URL.revokeObjectURL(module);
        const tape = new AudioWorkletNode(context, "vamp-tape", { numberOfOutputs: 0 });
        context.createMediaStreamSource(stream).connect(tape);
        return { context, tape, stream, close };
      } catch (error) {
        close();
        throw error;
      }
    },

    // Seconds from a click that is sent out to its sound coming back in, as far as the browser knows.
    latency({ context, stream }) {
      const input = stream.getAudioTracks()[0].getSettings().latency || context.baseLatency || 0;
      return (context.outputLatency || context.baseLatency || 0) + input;
    },

    click(context, time, strong) {
      const tone = context.createOscillator();
      const gain = context.createGain();
      tone.frequency.value = strong ? 1760 : 1100;
      gain.gain.setValueAtTime(0, time);
      gain.gain.linearRampToValueAtTime(strong ? 0.5 : 0.3, time + 0.001);
      gain.gain.exponentialRampToValueAtTime(0.001, time + 0.05);
      tone.connect(gain).connect(context.destination);
      tone.start(time);
      tone.stop(time + 0.06);
    },

    // The frames [first, first + count) of blocks; what is missing is silent. One channel where both are the same.
    cut(blocks, first, count) {
      const most = Math.max(...blocks.map((block) => block.channels.length), 1);
      const channels = Array.from({ length: most }, () => new Float32Array(count));
      for (const block of blocks) {
        const begin = Math.max(first, block.frame);
        const end = Math.min(first + count, block.frame + block.channels[0].length);
        if (end <= begin) continue;
        channels.forEach((channel, c) => {
          const samples = block.channels[Math.min(c, block.channels.length - 1)];
          channel.set(samples.subarray(begin - block.frame, end - block.frame), begin - first);
        });
      }
      const same = most === 2 && channels[0].every((value, i) => value === channels[1][i]);
      return same ? [channels[0]] : channels.slice(0, 2);
    },

    // A WAV file of 32-bit floats.
    wav(channels, rate) {
      const count = channels[0].length;
      const size = count * channels.length * 4;
      const view = new DataView(new ArrayBuffer(44 + size));
      const text = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
      text(0, "RIFF");
      view.setUint32(4, 36 + size, true);
      text(8, "WAVEfmt ");
      view.setUint32(16, 16, true);
      view.setUint16(20, 3, true);
      view.setUint16(22, channels.length, true);
      view.setUint32(24, rate, true);
      view.setUint32(28, rate * channels.length * 4, true);
      view.setUint16(32, channels.length * 4, true);
      view.setUint16(34, 32, true);
      text(36, "data");
      view.setUint32(40, size, true);
      for (let i = 0, at = 44; i < count; i++) for (const channel of channels) view.setFloat32((at += 4) - 4, channel[i], true);
      return new Blob([view.buffer], { type: "audio/wav" });
    },
  };
})();
