#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "services/agent/parent/large_pages.h"
#include "tests/unit/agent/agent_process.h"
#include "tests/unit/agent/test_client.h"

namespace runbus::agent_test {
namespace {

std::string find_node() {
  for (const char* path : {"/usr/bin/node", "/usr/local/bin/node"}) {
    if (::access(path, X_OK) == 0) {
      return path;
    }
  }
  return {};
}

// Spare Node.js processes: a run that gets one must not differ from a cold start.
class AgentWarmNode : public ::testing::Test {
 protected:
  void SetUp() override {
    if (node_.empty()) {
      GTEST_SKIP() << "no node here";
    }
    configure({});
  }

  void configure(const std::vector<std::string>& preload) {
    v1::AgentRequest request;
    v1::Warm& warm = *request.mutable_configure()->add_warm();
    warm.set_name("node");
    warm.add_argv(node_);
    warm.add_environment("LANG=C.UTF-8");
    warm.mutable_preload()->Add(preload.begin(), preload.end());
    ASSERT_TRUE(client_.call(request).has_done());
  }

  v1::Spawn javascript(const std::string& script, bool warm, const std::string& name = "main.js") {
    EXPECT_TRUE(client_.write_file(name, script).has_done());
    v1::Spawn spawn;
    spawn.set_execution_id("run" + std::to_string(++runs_));
    v1::Step& step = *spawn.add_steps();
    for (const std::string& argument : {node_, name, std::string("--one"), std::string("zw ö")}) {
      step.add_argv(argument);
    }
    for (const std::string& variable :
         {std::string("PATH=/usr/local/bin:/usr/bin:/bin"), std::string("LANG=C.UTF-8"),
          "HOME=" + agent_.workspace(), std::string("EMPTY="), std::string("A=b=c\nd")}) {
      step.add_environment(variable);
    }
    if (warm) {
      step.set_warm("node");
    }
    return spawn;
  }

  Stream run_warm(const std::string& script, const std::string& name = "main.js") {
    Stream stream;
    EXPECT_TRUE(eventually([&] {
      stream = run(client_, javascript(script, true, name));
      return stream.exited.warm();
    }));
    return stream;
  }

  void expect_same(const std::string& script, const std::string& name = "main.js") {
    const Stream cold = run(client_, javascript(script, false, name));
    EXPECT_FALSE(cold.exited.warm());
    const Stream warm = run_warm(script, name);
    EXPECT_EQ(warm.out, cold.out) << script;
    EXPECT_EQ(warm.err, cold.err) << script;
    EXPECT_EQ(warm.exited.code(), cold.exited.code()) << script;
    EXPECT_EQ(warm.exited.signal(), cold.exited.signal()) << script;
  }

  const std::string node_ = find_node();
  AgentProcess agent_;
  TestClient client_{agent_.socket_path()};
  int runs_ = 0;
};

TEST_F(AgentWarmNode, LooksLikeAColdStart) {
  expect_same(
      "const m = require('module');\n"
      "console.log(process.argv, process.argv0, process.execArgv, process.title, process.cwd(),\n"
      "  Object.entries(process.env), require.main === module, module.paths, __filename,\n"
      "  module.id, module.parent, Object.keys(require.cache), Object.keys(globalThis),\n"
      "  Object.getOwnPropertyNames(process).sort(), Object.getOwnPropertyDescriptor(m, "
      "'runMain'),\n"
      "  process.eventNames(), process.umask(), new Error().stack)");
  expect_same(
      "const fs = require('fs');\n"
      "console.log(fs.readFileSync(0, 'utf8'), fs.readFileSync('/proc/self/oom_score_adj', "
      "'utf8'),\n"
      "  fs.existsSync('/proc/self/fd/100'), fs.readlinkSync('/proc/self/fd/0'),\n"
      "  fs.readFileSync('/proc/self/status', 'utf8').match(/(Sig[^Q]|Shd|NoNew).*/g))");
  expect_same("import fs from 'fs'; console.log(import.meta.url, process.argv, await 1)",
              "main.mjs");
}

TEST_F(AgentWarmNode, EndsLikeAColdStart) {
  expect_same("process.exitCode = 4");
  expect_same("function f() { throw new Error('bad') }\nf()");
  expect_same("let x = = 1");
  expect_same("Promise.reject(new Error('nobody'))");
  expect_same("process.kill(process.pid, 'SIGTERM'); setTimeout(() => {}, 5000)");
  expect_same(
      "process.on('exit', c => console.log('exit', c)); setTimeout(() => process.exit(3), 9)");
  expect_same("process.stdout.write('x'.repeat(300000)); process.exit(0)");
}

TEST_F(AgentWarmNode, StartsThreadsAndProcessesLikeAColdStart) {
  expect_same(
      "const { Worker, isMainThread } = require('worker_threads');\n"
      "if (isMainThread) {\n"
      "  process.title = 'another title';\n"
      "  new Worker(__filename).on('exit', c => console.log('end', c));\n"
      "} else {\n"
      "  console.log(process.execArgv, process.argv, Object.keys(require.cache), "
      "Object.keys(process.env))\n"
      "}");
  expect_same(
      "const c = require('child_process');\n"
      "if (process.send) { console.log(process.execArgv, process.argv); process.disconnect() }\n"
      "else c.fork(__filename).on('exit', e => console.log(e, c.execSync('echo sub; env | sort') + "
      "''))");
}

TEST_F(AgentWarmNode, EachRunHasFreshRandomNumbers) {
  const std::string script = "console.log(Math.random(), require('crypto').randomUUID())";
  EXPECT_NE(run_warm(script).out, run_warm(script).out);
}

TEST_F(AgentWarmNode, TakesInputAndLimits) {
  EXPECT_TRUE(eventually([&] {
    v1::Spawn spawn = javascript(
        "process.stdin.on('data', d => console.log('got ' + d)).on('end', () => console.log('end', "
        "require('child_process').execSync('ulimit -f') + ''))",
        true);
    spawn.mutable_steps(0)->set_takes_input(true);
    spawn.mutable_steps(0)->mutable_limits()->set_file_size(1024 * 1024);
    EXPECT_TRUE(client_.spawn(spawn).has_done());
    client_.input(spawn.execution_id(), "text", true);
    const Stream stream = attach_and_read(client_, spawn.execution_id());
    EXPECT_EQ(stream.out, "got text\nend 2048\n\n") << stream.err;
    return stream.exited.warm();
  }));
}

TEST_F(AgentWarmNode, LeavesToAColdStartWhatASpareCannotBe) {
  run_warm("");
  v1::Spawn spawn = javascript("console.log(process.execArgv)", true);
  spawn.mutable_steps(0)->add_environment("NODE_OPTIONS=--throw-deprecation");
  EXPECT_FALSE(run(client_, spawn).exited.warm());
  spawn = javascript("console.log(process.execArgv)", true);
  spawn.mutable_steps(0)->set_argv(1, "--throw-deprecation");
  spawn.mutable_steps(0)->set_argv(2, "main.js");
  const Stream stream = run(client_, spawn);
  EXPECT_FALSE(stream.exited.warm());
  EXPECT_EQ(stream.out, "[ '--throw-deprecation' ]\n");
}

// What a program of the session may do to the parent, to helpers and to the spares that wait.
TEST_F(AgentWarmNode, RunsOnWhateverAProgramDoesToTheOthers) {
  run_warm("");
  for (const std::string signal : {"SIGSTOP", "SIGKILL"}) {
    const std::string script =
        "const fs = require('fs');\n"
        "const isOurs = p => { try {\n"
        "  return fs.readFileSync(`/proc/${p}/cmdline`, 'utf8').includes('/proc/self/environ')\n"
        "} catch { return false } };\n"
        "if (!isOurs('self')) process.exit();\n"
        "(function look() {\n"
        "  const others = fs.readdirSync('/proc').filter(\n"
        "    p => +p && +p !== process.pid && +p !== process.ppid && isOurs(p));\n"
        "  if (others.length < 3) return setTimeout(look, 20);\n"
        "  for (const p of others) {\n"
        // A spare dies with its helper.
        "    try { process.kill(+p, '" +
        signal +
        "') } catch (error) { if (error.code !== 'ESRCH') throw error }\n"
        "  }\n"
        "})()";
    const Stream did = run_warm(script);
    EXPECT_EQ(did.exited.code(), 0) << did.err;
    EXPECT_EQ(run_warm("console.log(1)").out, "1\n");
  }
}

// Threads of the parent go on in its spares: what V8 and libuv have for them to do is done.
TEST_F(AgentWarmNode, ItsThreadsDoWhatThoseOfAColdStartDo) {
  const std::string count =
      "setTimeout(() => console.log(require('fs').readdirSync('/proc/self/task').length), 50)";
  const int cold = std::stoi(run(client_, javascript(count, false)).out);
  // Without those that have nothing to do yet, and two that nothing comes to: for delayed work, and
  // for SIGUSR1.
  EXPECT_LE(std::stoi(run_warm(count).out), cold - 2);
  expect_same(
      "const { scrypt } = require('crypto'); const fs = require('fs');\n"
      "const dns = require('dns'); const http = require('http');\n"
      "let kept = []; for (let i = 0; i < 3e5; i++) kept.push({ i, s: 'x' + i });\n"
      "const f = n => n < 2 ? n : f(n - 1) + f(n - 2);\n"
      "WebAssembly.compile(Uint8Array.from([0, 97, 115, 109, 1, 0, 0, 0]))\n"
      "  .then(m => console.log(m, f(27), kept.length));\n"
      "scrypt('a', 'b', 16, (e, key) => console.log(key.toString('hex')));\n"
      "fs.promises.readFile(__filename).then(b => console.log(b.length));\n"
      "setTimeout(() => {\n"
      "  const s = http.createServer((q, r) => r.end('ok')).listen(0, '127.0.0.1', () =>\n"
      "    http.get({ port: s.address().port, agent: false }, r => r.on('data', d => {\n"
      "      console.log(d + ''); s.close() })));\n"
      "}, 300);");
}

TEST_F(AgentWarmNode, EndsAsItsExitListenersSay) {
  expect_same(
      "process.on('exit', c => { console.log(c, process.exitCode); process.exitCode = 7 });");
  expect_same(
      "process.on('exit', c => { console.log('first', c) });\n"
      "process.on('exit', c => { throw new Error('from a listener') });");
  expect_same("process.on('exit', () => process.exit(9)); process.exit(0)");
  expect_same("process.once('exit', function () { console.log(this === process) })");
  expect_same("await new Promise(() => {})", "main.mjs");
  expect_same(
      "const own = process.emit;\n"
      "process.emit = function (name, ...all) { console.log(name); return own.call(this, name, "
      "...all) };\n"
      "process.on('exit', () => console.log('listened'));");
}

// Each run is another process, and the parent's as it was: nothing of one run is seen by the next.
TEST_F(AgentWarmNode, LeavesNothingToTheNextRun) {
  const std::string script =
      "console.log(globalThis.left, Array.prototype.left, process.env.LEFT);\n"
      "globalThis.left = Array.prototype.left = process.env.LEFT = 1;\n"
      "process.umask(0); process.on('SIGUSR2', () => {});";
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(run_warm(script).out, "undefined undefined undefined\n");
  }
  expect_same(
      "console.log(process.umask(), process.pid === +require('fs').readlinkSync('/proc/self'))");
}

TEST_F(AgentWarmNode, HasItsModulesLoadedAhead) {
  ASSERT_TRUE(client_.write_file("ahead.js", "globalThis.ahead = process.pid").has_done());
  configure({agent_.workspace() + "/ahead.js", "no-such-module"});
  EXPECT_EQ(run_warm("console.log(typeof ahead, ahead === process.pid)").out, "number false\n");
}

// Negative control: a cold one has none.
TEST_F(AgentWarmNode, HasItsCodeInLargePages) {
  if (!agent::has_large_pages()) {
    GTEST_SKIP()
        << "the kernel gives no large pages, or does not say whether it does (before Linux 6.1)";
  }
  const std::string script =
      "let code = false, size = 0;\n"
      "for (const line of require('fs').readFileSync('/proc/self/smaps', 'utf8').split('\\n')) {\n"
      "  if (/^[0-9a-f]+-/.test(line)) code = / r-xp /.test(line);\n"
      "  else if (code && line.startsWith('AnonHugePages:')) size += parseInt(line.slice(14));\n"
      "}\n"
      "console.log(size)";
  EXPECT_GE(std::stoi(run_warm(script).out), 8192);
  EXPECT_EQ(run(client_, javascript(script, false)).out, "0\n");
}

// Also what a variable means to the interpreter itself, and the parent has asked for already.
TEST_F(AgentWarmNode, TakesTheEnvironmentAsAColdStart) {
  ASSERT_TRUE(client_.write_file("ahead.js", "new Date(0).getHours()").has_done());
  configure({agent_.workspace() + "/ahead.js"});
  const std::string script =
      "console.log(process.env, new Date(0).getHours());\n"
      "process.env.A = 'new'; delete process.env.HOME; process.env.B = 'more';\n"
      "console.log(require('child_process').execFileSync('/usr/bin/env').toString())";
  for (const char* zone : {"", "TZ=Asia/Tokyo", "TZ="}) {
    std::vector<std::string> outputs;
    for (const bool warm : {false, true}) {
      EXPECT_TRUE(eventually([&] {
        v1::Spawn spawn = javascript(script, warm);
        if (*zone != '\0') {
          spawn.mutable_steps(0)->add_environment(zone);
        }
        const Stream stream = run(client_, spawn);
        outputs.push_back(stream.out + stream.err);
        return stream.exited.warm() == warm;
      }));
    }
    EXPECT_EQ(outputs.front(), outputs.back()) << zone;
  }
}

// A child of the parent goes to its end first; where that is not a good one there are no spares.
TEST_F(AgentWarmNode, StartsColdWhereAForkDoesNotEndWell) {
  const std::string bad = agent_.workspace() + "/bad.js";
  const std::string notes = agent_.workspace() + "/notes";
  ASSERT_TRUE(client_
                  .write_file("bad.js", "require('fs').appendFileSync('" + notes +
                                            "', 'x'); process.exitCode = 1")
                  .has_done());
  configure({bad});
  const auto starts = [&notes] {
    std::ifstream file(notes);
    return std::string(std::istreambuf_iterator<char>(file), {}).size();
  };
  EXPECT_TRUE(eventually([&] {
    const Stream stream = run(client_, javascript("console.log(1)", true));
    EXPECT_EQ(stream.out, "1\n");
    EXPECT_FALSE(stream.exited.warm());
    return starts() >= 2;  // it was tried again
  }));
}

TEST_F(AgentWarmNode, ManyRunsAtOnceAllEnd) {
  run_warm("");
  v1::Spawn spawn = javascript("setTimeout(() => console.log('slept'), 100)", true);
  for (int i = 0; i < 4; ++i) {
    spawn.set_execution_id("many" + std::to_string(i));
    client_.spawn(spawn);
  }
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(attach_and_read(client_, "many" + std::to_string(i)).out, "slept\n");
  }
}

}  // namespace
}  // namespace runbus::agent_test
