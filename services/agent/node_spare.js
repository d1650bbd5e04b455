/*=*/ // The JavaScript half of a spare Node.js process (warm_node.h).
// The agent runs `node --require /proc/self/environ main.js [MODULE...]` with this text as the first entry of the environment
// (its name is "/*", and what follows it is behind a line comment). So it needs no file in the sandbox, which a program could
// change; and a worker thread, which Node.js has load it once more, finds it whatever the program does.
//
// It says "r" on the job's socket and waits there until a job comes. Then it becomes the job's program: --require ends
// before Node.js starts the main script, so from then on all is as in a cold start, no frame of ours included.
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
  const util = require('util');
  const job = 100;
  const LARGEST_JOB = 4 + 65536;

  function waitForJob() {
    try {
      fs.writeSync(job, 'r');
    } catch {
      // The job is there already, and the agent has gone.
    }
    const bytes = Buffer.allocUnsafe(LARGEST_JOB);
    let size = 0;
    while (size < 4 || size < 4 + bytes.readUInt32BE(0)) {
      const more = fs.readSync(job, bytes.subarray(size));
      if (more === 0) {
        process.reallyExit(0); // no job will come
      }
      size += more;
    }
    fs.closeSync(job);
    return take(bytes.toString('utf8', 4, size));
  }

  function take(text) {
    const words = text.split('\0').slice(0, -1);
    const [input, directory, count] = words;
    return { input, directory, argv: words.slice(3, 3 + Number(count)), environment: words.slice(3 + Number(count)) };
  }

  function become({ input, directory, argv, environment }) {
    try {
      process.chdir(directory);
    } catch (error) {
      fs.writeSync(2, `runbus: cannot run ${argv[0]}: ${error.message}\n`);
      process.reallyExit(126);
    }
    if (input === 'null') {
      fs.closeSync(0);
      fs.openSync('/dev/null', 'r');
    }
    setEnvironment(environment);
    process.execArgv.length = 0;
    process.argv.splice(1, process.argv.length, path.resolve(argv[1]), ...argv.slice(2));
  }

  function setEnvironment(environment) {
    for (const name of Object.keys(process.env)) {
      delete process.env[name];
    }
    for (const entry of environment) {
      const end = entry.indexOf('=');
      process.env[entry.slice(0, end)] = entry.slice(end + 1);
    }
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

  // Functions are compiled and objects made at their first use, and in a run of little code that is most of it.
  function rehearse() {
    const { input, directory, argv, environment } = take('null\0/\0' + '2\0node\0main.js\0A=b\0');
    process.chdir(directory);
    fs.closeSync(fs.openSync('/dev/null', 'r'));
    const own = Object.entries(process.env).map(([name, value]) => `${name}=${value}`);
    setEnvironment([...own, ...environment]);
    setEnvironment(own);
    path.resolve(argv[1], input);
    new Module('/main.js')._compile('(() => 1)();', '/main.js');
    // Not by the console: process.stdout and process.stderr are open handles once they are there.
    util.format('text', 1, [1.5, 'x'], { a: null, b: new Map() });
    new net.Socket({ readable: false, writable: true }).destroy();
  }

  // What nearly every program comes to need; then what the operator says.
  for (const name of ['tty', 'stream', 'timers', ...process.argv.slice(2)]) {
    try {
      require(name);
    } catch {
      // A program that needs it will say so.
    }
  }
  try {
    rehearse();
  } catch {
    // Then the run does it for the first time.
  }
  become(waitForJob());
  startInstead(process.argv[1]);
})();
