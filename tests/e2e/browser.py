# SPDX-License-Identifier: Apache-2.0
"""A browser for tests: Chromium without a window, told what to do over two pipes by the DevTools protocol."""

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time

PROGRAMS = 'chromium-headless-shell', 'chromium', 'chromium-browser'
FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage', '--hide-scrollbars', '--remote-debugging-pipe']


def find():
    """The program, or None."""
    return next((path for path in map(shutil.which, PROGRAMS) if path), None)


class Browser:
    """One page. Commands and events are JSON, each with a zero byte behind it, on descriptors 3 and 4 of the browser's."""

    def __init__(self, program, width=1440, height=900):
        self.folder = tempfile.TemporaryDirectory(prefix='hvsdk-browser.', ignore_cleanup_errors=True)
        theirs_in, self.to = os.pipe()
        self.of, theirs_out = os.pipe()
        def place():
            # Above both, so that neither takes the other's place.
            first, second = os.dup2(theirs_in, 100), os.dup2(theirs_out, 101)
            os.dup2(first, 3)
            os.dup2(second, 4)
        with open(f'{self.folder.name}/log', 'wb') as log:
            self.process = subprocess.Popen(
                [program, *FLAGS, f'--user-data-dir={self.folder.name}/profile', f'--window-size={width},{height}', 'about:blank'],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(3, 4, theirs_in, theirs_out), preexec_fn=place, start_new_session=True,
                env={**os.environ, 'HOME': self.folder.name})
        os.close(theirs_in)
        os.close(theirs_out)
        self.number, self.received, self.events, self.session = 0, b'', [], None
        target = self.tell('Target.createTarget', url='about:blank', width=width, height=height)['targetId']
        self.session = self.tell('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in 'Page', 'Runtime', 'Log', 'Network':
            self.tell(f'{domain}.enable')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.killpg(self.process.pid, signal.SIGKILL)  # and all that it has started
        self.process.wait()
        os.close(self.to)
        os.close(self.of)
        self.folder.cleanup()

    def message(self, deadline):
        while b'\0' not in self.received:
            ready, _, _ = select.select([self.of], [], [], max(0, deadline - time.monotonic()))
            piece = os.read(self.of, 1 << 16) if ready else b''
            if not piece:
                with open(f'{self.folder.name}/log', encoding='utf-8', errors='replace') as log:
                    raise RuntimeError(f'the browser says nothing: {log.read()[-2000:]}')
            self.received += piece
        line, self.received = self.received.split(b'\0', 1)
        return json.loads(line)

    def tell(self, method, timeout=60, **parameters):
        """What the browser answers."""
        self.number += 1
        command = {'id': self.number, 'method': method, 'params': parameters}
        if self.session:
            command['sessionId'] = self.session
        data = json.dumps(command).encode() + b'\0'
        while data:
            data = data[os.write(self.to, data):]
        deadline = time.monotonic() + timeout
        while True:
            message = self.message(deadline)
            if message.get('id') == self.number:
                if 'error' in message:
                    raise RuntimeError(f'{method}: {message["error"]}')
                return message['result']
            self.events.append(message)

    def complaints(self):
        """What the page's console and the browser itself have found wrong, so far."""
        found = []
        for event in self.events:
            parameters = event.get('params', {})
            if event['method'] == 'Runtime.exceptionThrown':
                found.append(parameters['exceptionDetails'].get('exception', {}).get('description', str(parameters)))
            if event['method'] == 'Log.entryAdded' and parameters['entry']['level'] == 'error':
                found.append(f'{parameters["entry"]["text"]} {parameters["entry"].get("url", "")}')
            if event['method'] == 'Runtime.consoleAPICalled' and parameters['type'] == 'error':
                found.append(str([argument.get('value', argument.get('description')) for argument in parameters['args']]))
        return found

    def asked(self):
        """The addresses of all that the page has asked for, so far."""
        return [event['params'].get('url') or event['params']['request']['url'] for event in self.events
                if event['method'] in ('Network.requestWillBeSent', 'Network.webSocketCreated')]

    def open(self, url):
        self.tell('Page.navigate', url=url)

    def run(self, script):
        """The value of a JavaScript expression, also of one that is a promise."""
        result = self.tell('Runtime.evaluate', expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        if 'exceptionDetails' in result:
            raise RuntimeError(result['exceptionDetails'].get('exception', {}).get('description', str(result)))
        return result['result'].get('value')

    def wait(self, script, seconds=60):
        """Until the expression is true; what it is then."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            if time.monotonic() > end:
                raise RuntimeError(f'not for {seconds} s: {script}; {self.complaints()}')
            time.sleep(0.1)
        return value

    def place(self, selector):
        """The middle of an element, as a mouse finds it."""
        return self.run(f'''(() => {{ const at = document.querySelector({json.dumps(selector)}).getBoundingClientRect();
                                     return [at.x + at.width / 2, at.y + at.height / 2]; }})()''')

    def mouse(self, kind, x, y, buttons=0, button='left'):
        self.tell('Input.dispatchMouseEvent', type=f'mouse{kind}', x=x, y=y, button=button if kind != 'Moved' else 'none',
                  buttons=buttons, clickCount=1 if kind != 'Moved' else 0)

    def wheel(self, x, y, right, down):
        """By pixels: a detent of a common wheel is some 100 of them."""
        self.tell('Input.dispatchMouseEvent', type='mouseWheel', x=x, y=y, deltaX=right, deltaY=down)

    def click(self, selector):
        x, y = self.place(selector)
        self.mouse('Moved', x, y)
        self.mouse('Pressed', x, y, 1)
        self.mouse('Released', x, y)

    def key(self, is_pressed, code, key, *held, repeats=False):
        """A key, by its place and by what it is on the browser's keyboard (KeyboardEvent); `held` are modifiers."""
        names = 'Alt', 'Control', 'Meta', 'Shift'  # each a bit of the protocol's
        self.tell('Input.dispatchKeyEvent', type='keyDown' if is_pressed else 'keyUp', code=code, key=key, autoRepeat=repeats,
                  modifiers=sum(1 << names.index(name) for name in held), **({'text': key} if is_pressed and len(key) == 1 else {}))

    def type(self, text):
        """By keys of a US keyboard: small letters, digits, space and Enter."""
        for letter in text:
            code = {' ': 'Space', '\n': 'Enter'}.get(letter, f'Digit{letter}' if letter.isdigit() else f'Key{letter.upper()}')
            key = {'key': 'Enter' if letter == '\n' else letter, 'code': code,
                   'windowsVirtualKeyCode': 13 if letter == '\n' else ord(letter.upper())}
            self.tell('Input.dispatchKeyEvent', type='keyDown', text=letter.replace('\n', '\r'), **key)
            self.tell('Input.dispatchKeyEvent', type='keyUp', **key)

    def picture(self, path):
        with open(path, 'wb') as file:
            file.write(base64.b64decode(self.tell('Page.captureScreenshot')['data']))
