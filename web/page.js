// SPDX-License-Identifier: Apache-2.0
// The page of a machine (include/hvsdk/vmm/machine_page.h says what it asks for). All addresses are relative: the token is in the page's own.

import RFB from './novnc/core/rfb.js';
import { Terminal } from './xterm/xterm.mjs';

const element = (id) => document.getElementById(id);
const streamUrl = (name) => new URL(name, location.href.replace(/^http/, 'ws')).href;
const kRetryMs = 2000, kStatusMs = 1000;
// A WebSocket's frame is 64 KiB at most.
const kPieceBytes = 16384;

function show(error) {
  element('error').textContent = error;
  element('error').hidden = !error;
}

// Buttons

async function post(path, body) {
  try {
    const response = await fetch(path, { method: 'POST', body });
    show(response.ok ? '' : (await response.text()) || `the machine does not know "${path}"`);
  } catch {
    show('The machine does not answer.');
  }
  await refresh();
}

for (const button of document.querySelectorAll('[data-post]')) {
  button.addEventListener('click', () => {
    if (!button.dataset.confirm || confirm(button.dataset.confirm)) post(button.dataset.post);
  });
}
element('screenshot').addEventListener('click', async (event) => {
  event.preventDefault();
  const response = await fetch('screenshot.png').catch(() => null);
  if (!response?.ok) return show((await response?.text()) || 'The machine does not answer.');
  const link = document.createElement('a');
  link.href = URL.createObjectURL(await response.blob());
  link.download = 'screenshot.png';
  link.click();
  URL.revokeObjectURL(link.href);
});
element('insert').addEventListener('submit', (event) => {
  event.preventDefault();
  post(`insert/${element('drive').value}`, element('path').value);
});
element('eject').addEventListener('click', () => post(`eject/${element('drive').value}`));

// Screen

let screen = null;

function openScreen() {
  element('screen-part').hidden = false;
  element('screen').replaceChildren();
  screen = new RFB(element('screen'), streamUrl('screen'));
  screen.scaleViewport = true;
  screen.background = '#000';
  screen.addEventListener('disconnect', () => {
    screen = null;
  });
}

// noVNC lets go of what is held when the window is left; whoever goes on to another part of the page lets go of the keys there.
element('screen').addEventListener('focusout', () => window.dispatchEvent(new Event('blur')));

// Serial console

let terminal = null, line = null;

function openConsole() {
  element('console-part').hidden = false;
  if (!terminal) {
    terminal = new Terminal({ fontSize: 12, scrollback: 5000, fontFamily: '"DejaVu Sans Mono", monospace' });
    terminal.open(element('console'));
    const type = (bytes) => {
      for (let at = 0; line?.readyState === WebSocket.OPEN && at < bytes.length; at += kPieceBytes) {
        line.send(bytes.subarray(at, at + kPieceBytes));
      }
    };
    terminal.onData((text) => type(new TextEncoder().encode(text)));
    terminal.onBinary((text) => type(Uint8Array.from(text, (letter) => letter.charCodeAt(0))));
  }
  terminal.reset();  // what was said lately comes again
  line = new WebSocket(streamUrl('console'));
  line.binaryType = 'arraybuffer';
  line.addEventListener('message', (event) => terminal.write(new Uint8Array(event.data)));
  line.addEventListener('close', () => {
    line = null;
  });
}

// Status

// A path is bytes, which need not be text.
const textOf = (base64) => new TextDecoder().decode(Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)));

function linesOf(machine) {
  const seconds = Number(machine.reference_time_ns) / 1e9;
  const lines = [
    ['engine', `${machine.backend}, ${machine.cpus} processor${machine.cpus === 1 ? '' : 's'}, ${machine.memory_mib} MiB`],
    ['guest', `${seconds.toFixed(0)} s, ${machine.resets} resets, heartbeat ${machine.contact}`],
  ];
  if (machine.input) lines.push(['input', `keyboard ${machine.input.keyboard}, mouse ${machine.input.mouse}`]);
  if (machine.memory?.version) lines.push(['memory', `${machine.memory.assigned} MiB of ${machine.memory.target} wanted`]);
  for (const network of machine.networks) {
    lines.push([network.device, `${network.port}, ${network.mac}, link ${network.link_up ? 'up' : 'down'}, guest ${network.up ? 'up' : 'down'}`]);
  }
  for (const disk of machine.disks) {
    const what = disk.dvd ? ', a DVD' : disk.read_only ? ', read-only' : '';
    lines.push([disk.device, disk.path ? `${textOf(disk.path)}, ${disk.size_bytes} bytes${what}` : `empty${what}`]);
  }
  return lines;
}

function fill(parent, children) {
  const shown = Array.from(parent.children, (child) => child.textContent).join('\n');
  if (shown !== children.map((child) => child.textContent).join('\n')) parent.replaceChildren(...children);
}

function make(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function showStatus({ screen: hasScreen, console: hasConsole, machine }) {
  const isPaused = machine.state === 'paused';
  element('state').textContent = element('state').className = machine.state;
  element('pause').hidden = isPaused;
  element('resume').hidden = !isPaused;
  element('ctrl-alt-delete').hidden = !machine.input || machine.input.keyboard === 'none';
  element('screenshot').hidden = !hasScreen;
  if (machine.video?.width) {
    element('screen-size').textContent = `${machine.video.width} x ${machine.video.height}`;
    element('screen').style.aspectRatio = `${machine.video.width} / ${machine.video.height}`;
  }
  fill(element('status'), linesOf(machine).flatMap(([name, text]) => [make('dt', name), make('dd', text)]));
  const drives = machine.disks.filter((disk) => disk.dvd);
  element('insert').hidden = drives.length === 0;
  fill(element('drive'), drives.map((disk) => make('option', disk.device)));
  if (hasScreen && !screen) openScreen();
  if (hasConsole && !line) openConsole();
}

async function refresh() {
  try {
    showStatus(await (await fetch('status')).json());
    return kStatusMs;
  } catch {
    element('state').textContent = 'gone';
    element('state').className = '';
    return kRetryMs;
  }
}

// A page that nobody sees asks for nothing.
async function watch() {
  const pause = document.hidden ? kRetryMs : await refresh();
  setTimeout(watch, pause);
}
watch();
