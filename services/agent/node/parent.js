/*=*/ // The parent of the warm Node.js processes (warm_interpreter.h says what a parent does). The agent runs
//   LD_PRELOAD=/proc/self/fd/4 node --require /proc/self/environ main.js [MODULE...]
// with this text as the first entry of the environment (its name is "/*", and what follows it is behind a line comment). So it
// needs no file in the sandbox, which a program could change; and a worker thread, which Node.js has load it once more, finds
// it whatever the program does. Descriptor 3 is the control socket, 4 the native half (module.cc).
//
// Everything behind serve() is in a spare: it waits until a job comes and then becomes the job's program. --require ends before
// Node.js starts the main script, so from then on all is as in a cold start, no frame of ours included.
(() => {
  delete require.cache[__filename];
  if (!require('worker_threads').isMainThread) {
    process.execArgv = [];
    return;
  }
  const fs = require('fs');
  const path = require('path');
  const Module = require('module');
  const net = require('net');
  const v8 = require('v8');
  const { Console } = require('console');
  const MODULE = 4;
  const REHEARSALS = 10;

  // The number of a job's arguments, and they, each ended by a zero byte.
  function take(text) {
    return text.split('\0').slice(1, -1);
  }

  function become(argv) {
    process.chdir('.'); // Node.js remembers where it was
    if (process.env.TZ !== undefined) {
      process.env.TZ = process.env.TZ; // and which time zone V8 has asked for
    }
    process.execArgv.length = 0;
    process.argv.splice(1, process.argv.length, path.resolve(argv[1]), ...argv.slice(2));
  }

  // What a forked process has of its own.
  function followFork() {
    setPid();
    setSeed(native.random());
    Math.random(); // which takes the seed: nobody has called it before
    setSeed(0);
  }

  function setPid() {
    const pid = Object.getOwnPropertyDescriptor(process, 'pid');
    Object.defineProperty(process, 'pid', { ...pid, value: Number(fs.readlinkSync('/proc/self')) });
  }

  function setSeed(number) {
    v8.setFlagsFromString(`--random-seed=${number}`);
  }

  // Node.js starts the script by Module.runMain, with the path it had at its own start. A bound function has no frame.
  function startInstead(script) {
    const own = Object.getOwnPropertyDescriptor(Module, 'runMain');
    Object.defineProperty(Module, 'runMain', {
      configurable: true,
      enumerable: own.enumerable,
      get() {
        Object.defineProperty(Module, 'runMain', own);
        return own.value.bind(Module, script);
      },
    });
  }

  // When all that a program can see of its end has been, and it ended well. (Of another end Node.js may have something to say.)
  // The accessor knows when Node.js is about to tell the listeners, so that ours becomes the last of them; and no frame of ours
  // is below theirs.
  function leaveAfterExit() {
    const { emit } = process;
    let told = false;
    const leave = code => {
      if (code === 0 && !process.exitCode) {
        native.leave();
      }
    };
    Object.defineProperty(Object.getPrototypeOf(process), 'emit', {
      configurable: true,
      get() {
        if (!told && process._exiting) {
          told = true;
          process.on('exit', leave);
        }
        return emit;
      },
      set(value) {
        Object.defineProperty(this, 'emit', { configurable: true, enumerable: true, writable: true, value });
      },
    });
  }

  // Functions are compiled and objects made at their first use, and in a run of little code that is most of it. In a spare it
  // is done once more: what it writes to is from then on its own memory.
  function rehearse() {
    const argv = take('2\0node\0main.js\0');
    setPid();
    setSeed(0);
    process.chdir('/');
    path.resolve('/', argv[1]);
    runEmptyScript();
    print(native.openPipe());
    native.closePipe();
    process._tickCallback();
    native.turn();
    process._tickCallback();
  }

  function runEmptyScript() {
    const script = path.resolve('/', 'dev/null');
    Module.runMain(script);
    process.mainModule = undefined;
    for (const cache of [Module._cache, Module._pathCache]) {
      for (const name of Object.keys(cache).filter(name => name.startsWith(script))) {
        delete cache[name];
      }
    }
  }

  // As process.stdout is: that itself would be an open handle once it is there.
  function print(fd) {
    const stream = new net.Socket({ fd, readable: false, writable: true });
    const output = new Console(stream, stream);
    output.log(1);
    output.error('text', 1, [1.5, 'x'], { a: null, b: new Map() });
    stream.destroy();
  }

  function tryToRehearse() {
    try {
      rehearse();
    } catch {
      // Then the run does it for the first time.
    }
  }

  // What a rehearsing process does from here to its end: a little of each thing that its threads are for.
  function tryEverything() {
    fs.readFile('/dev/null', () => setTimeout(() => {}, 1));
    startInstead('/dev/null');
  }

  const loader = { exports: {} };
  process.dlopen(loader, `/proc/self/fd/${MODULE}`);
  const native = loader.exports;
  fs.closeSync(MODULE);
  // What nearly every program comes to need; then what the operator says.
  for (const name of ['tty', 'stream', 'timers', ...process.argv.slice(2)]) {
    try {
      require(name);
    } catch {
      // A program that needs it will say so.
    }
  }
  for (let i = 0; i < REHEARSALS; i++) {
    tryToRehearse();
  }
  leaveAfterExit();
  native.prepare();
  if (native.rehearse()) {
    followFork();
    tryEverything();
    return;
  }
  native.serve();
  followFork();
  tryToRehearse();
  become(take(native.takeJob()));
  startInstead(process.argv[1]);
})();
