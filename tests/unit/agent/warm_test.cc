#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "tests/unit/agent/agent_process.h"
#include "tests/unit/agent/test_client.h"

namespace runbus::agent_test {
namespace {

constexpr char kPython[] = "/usr/bin/python3";

// Warm and cold runs of the same script must not differ, besides by what a script can only know by
// looking.
class AgentWarm : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::access(kPython, X_OK) != 0) {
      GTEST_SKIP() << "no " << kPython << " here";
    }
    v1::AgentRequest request;
    v1::Warm& warm = *request.mutable_configure()->add_warm();
    warm.set_name("python");
    warm.add_argv(kPython);
    warm.add_environment("LANG=C.UTF-8");
    for (const char* line : {"LANG=C.UTF-8", "PATH=/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE=1"}) {
      warm.add_usual_environment(line);
    }
    ASSERT_TRUE(client_.call(request).has_done());
  }

  v1::Spawn python(const std::string& script, bool warm) {
    const std::string id = "run" + std::to_string(++runs_);
    EXPECT_TRUE(client_.write_file("main.py", script).has_done());
    v1::Spawn spawn;
    spawn.set_execution_id(id);
    v1::Step& step = *spawn.add_steps();
    for (const char* argument : {kPython, "main.py", "one", "two"}) {
      step.add_argv(argument);
    }
    for (const std::string& variable :
         {"HOME=" + agent_.workspace(), std::string("LANG=C.UTF-8"),
          std::string("PATH=/usr/bin:/bin"), std::string("PYTHONDONTWRITEBYTECODE=1")}) {
      step.add_environment(variable);
    }
    if (!usual_) {
      step.add_environment("RARE=yes");
    }
    if (warm) {
      step.set_warm("python");
    }
    return spawn;
  }

  bool is_warm_now() { return run(client_, python("", true)).exited.warm(); }

  // Runs a script warm; the spare's being there is waited for.
  Stream run_warm(const std::string& script) {
    Stream stream;
    EXPECT_TRUE(eventually([&] {
      stream = run(client_, python(script, true));
      return stream.exited.warm();
    }));
    return stream;
  }
  Stream run_cold(const std::string& script) { return run(client_, python(script, false)); }
  void expect_same(const std::string& script) {
    const Stream cold = run_cold(script);
    const Stream warm = run_warm(script);
    EXPECT_EQ(warm.out, cold.out) << script;
    EXPECT_EQ(warm.err, cold.err) << script;
    EXPECT_EQ(warm.exited.code(), cold.exited.code()) << script;
    EXPECT_EQ(warm.exited.signal(), cold.exited.signal()) << script;
  }

  AgentProcess agent_;
  TestClient client_{agent_.socket_path()};
  int runs_ = 0;
  bool usual_ = true;  // whether runs have the environment that spares are ready for
};

class AgentWarmStart : public AgentWarm, public ::testing::WithParamInterface<bool> {
 protected:
  void SetUp() override {
    usual_ = GetParam();
    AgentWarm::SetUp();
  }
};

INSTANTIATE_TEST_SUITE_P(, AgentWarmStart, ::testing::Bool(), [](const auto& test) {
  return test.param ? "UsualEnvironment" : "OwnEnvironment";
});

TEST_P(AgentWarmStart, LooksLikeAColdStart) {
  expect_same("import sys; print(sys.argv, __name__, __file__, sys.path, sys.orig_argv)");
  expect_same("import os; print(sorted(os.environ.items()), os.getcwd(), sorted(globals()))");
  expect_same("import sys; print(sys.stdout, sys.stderr, sys.stdin, sys.stdin.read())");
  expect_same(
      "import sys, __main__; print(__main__.__file__, __main__.__spec__, 'main' in sys.modules)");
  expect_same("import os; print(sorted(os.listdir('/proc/self/fd')), os.getpid() == os.getsid(0))");
  expect_same("print(open('/proc/self/oom_score_adj').read(), os.umask(0))");
  expect_same(
      "print([l for l in open('/proc/self/status') if l.startswith(('SigP', 'SigB', 'SigI', "
      "'SigC', 'Shd', 'NoNew', "
      "'Seccomp:'))])");
}

TEST_P(AgentWarmStart, EndsLikeAColdStart) {
  expect_same("raise SystemExit(7)");
  expect_same("import sys; sys.exit('text')");
  expect_same("def f():\n  raise ValueError('bad')\nf()");
  expect_same("try:\n  1/0\nexcept Exception as e:\n  raise KeyError('x') from e");
  expect_same("x = (");
  expect_same("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)");
  expect_same("raise KeyboardInterrupt");
  expect_same("class D:\n  def __del__(self): print('gone')\nd = D()\nc = D()\nc.c = c");
  expect_same("f = open('left-open', 'w')\nf.write('text')");
  std::string text;
  EXPECT_TRUE(std::getline(std::ifstream(agent_.workspace() + "/left-open"), text));
  EXPECT_EQ(text, "text");
  expect_same("import atexit; atexit.register(print, 'bye'); print('hello', end='')");
  expect_same(
      "import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), "
      "print('t'))).start()");
  expect_same(
      "import multiprocessing as m\nif __name__ == '__main__':\n  p = "
      "m.get_context('spawn').Process("
      "target=print, args=('child',)); p.start(); p.join(); print(p.exitcode)");
}

TEST_P(AgentWarmStart, EachRunHasFreshRandomNumbers) {
  std::set<std::string> seen;
  for (int i = 0; i < 8; ++i) {
    seen.insert(run_warm("import random; print(random.random())").out);
  }
  EXPECT_EQ(seen.size(), 8U);
}

TEST_F(AgentWarm, LeavesToAColdStartWhatASpareCannotBe) {
  ASSERT_TRUE(eventually([&] { return is_warm_now(); }));
  v1::Spawn spawn = python("import sys; print(sys.flags.optimize)", true);
  spawn.mutable_steps(0)->add_environment("PYTHONOPTIMIZE=2");
  EXPECT_EQ(run(client_, spawn).out, "2\n");
  ASSERT_TRUE(eventually([&] { return is_warm_now(); }));
  spawn = python("", true);
  spawn.mutable_steps(0)->set_argv(1, "missing.py");
  const Stream stream = run(client_, spawn);
  EXPECT_NE(stream.err.find("can't open file"), std::string::npos) << stream.err;
  EXPECT_EQ(stream.exited.code(), 2);
  // What a site directory of the user's has, a spare has not loaded.
  ASSERT_TRUE(eventually([&] { return is_warm_now(); }));
  const std::string version = run_cold("import sys; print('%d.%d' % sys.version_info[:2])").out;
  const std::filesystem::path site = agent_.workspace() + "/.local/lib/python" +
                                     version.substr(0, version.size() - 1) + "/site-packages";
  std::filesystem::create_directories(site);
  expect_same("import sys; print(sys.path)");
}

TEST_F(AgentWarm, RunsScriptsOfEveryKind) {
  expect_same("x = '" + std::string(100'000, 'x') + "'\nprint(len(x), __file__)");
  expect_same(std::string("print(1)\0print(2)", 17));
  expect_same("# coding: latin-1\nprint(ascii('\xe9'))");
  expect_same("");
  expect_same("import sys; del sys.modules['__main__']; print('no main')");
  expect_same("import sys; del sys.modules['os']; import os, json; print(os.name)");
}

TEST_P(AgentWarmStart, FollowsTheRulesOfEveryRun) {
  const std::string argument = unique_argument("1000.");
  Stream stream = run_warm("import subprocess\nsubprocess.Popen(['sleep', '" + argument +
                           "'], start_new_session=True)\nprint('here')");
  EXPECT_EQ(stream.out, "here\n");
  EXPECT_EQ(stream.exited.code(), 0);
  EXPECT_FALSE(has_process_with_argument(argument));
  ASSERT_TRUE(eventually([&] { return is_warm_now(); }));
  v1::Spawn spawn = python("import time; time.sleep(1000)", true);
  spawn.set_timeout_ms(200);
  stream = run(client_, spawn);
  EXPECT_EQ(stream.exited.limit(), "time");
  EXPECT_EQ(stream.exited.signal(), SIGKILL);
}

// The helper is no child of the agent, so nobody is told that it was stopped.
TEST_F(AgentWarm, EndsAlthoughAProgramStoppedItsHelper) {
  const std::string script =
      "import os, signal\n"
      "def parent(pid): return int(open('/proc/%d/stat' % "
      "pid).read().rpartition(')')[2].split()[1])\n"
      "helper = os.getppid()\n"
      "if b'fd/4' in open('/proc/%d/cmdline' % helper, 'rb').read():\n";
  for (const std::string target : {"helper", "parent(helper)"}) {
    const Stream stream =
        run_warm(script + "  os.kill(" + target + ", signal.SIGSTOP)\nprint('stopped')");
    EXPECT_EQ(stream.out, "stopped\n");
    EXPECT_EQ(stream.exited.code(), 0);
    EXPECT_TRUE(eventually([&] { return is_warm_now(); }));
  }
}

TEST_F(AgentWarm, EndsAlthoughItsHelperIsStoppedAgainAndAgain) {
  const Stream stream = run_warm(
      "import os, signal, subprocess\nsubprocess.Popen(['/bin/sh', '-c', 'while kill -STOP '"
      " + str(os.getppid()) + '; do :; done'])\nos.kill(os.getppid(), signal.SIGSTOP)\n"
      "os._exit(5)");
  // Whether the helper can still say how the program ended is a race that the program has chosen.
  EXPECT_TRUE(stream.exited.code() == 5 || stream.exited.signal() == SIGKILL)
      << stream.exited.ShortDebugString();
}

TEST_F(AgentWarm, ComesBackAfterAProgramKilledIt) {
  // The helper's and the parent's children are found by their command line.
  const std::string kill =
      "import os, glob, signal\n"
      "if 'fd/4' not in open('/proc/self/cmdline').read(): os._exit(0)\n"
      "for p in glob.glob('/proc/[0-9]*/cmdline'):\n"
      "  pid = int(p.split('/')[2])\n"
      "  try:\n"
      "    if b'/proc/self/fd/4' in open(p, 'rb').read() and pid != os.getpid():\n"
      "      stat = open('/proc/%d/stat' % pid).read()\n"
      "      mine = open('/proc/%d/stat' % os.getppid()).read()\n"
      "      agent = mine.rpartition(')')[2].split()[1]\n"
      "      if stat.rpartition(')')[2].split()[1] in (agent,) and pid != os.getppid():\n"
      "        os.kill(pid, signal.SIGKILL)\n"
      "  except OSError: pass\n"
      "print('killed')";
  EXPECT_EQ(run_warm(kill).out, "killed\n");
  EXPECT_TRUE(eventually([&] { return is_warm_now(); }));
}

// A parent of the test's own, as bad as it likes; it notes its starts.
class AgentWarmParent : public AgentWarm {
 protected:
  void configure_parent(const std::string& script) {
    v1::AgentRequest request;
    v1::Warm& warm = *request.mutable_configure()->add_warm();
    warm.set_name("python");
    for (const std::string& argument :
         {std::string(kPython), std::string("-c"),
          "import socket, os, signal\nopen('" + notes() +
              "', 'a').write('started\\n')\nc = socket.socket(fileno=3)\n" + script}) {
      warm.add_argv(argument);
    }
    ASSERT_TRUE(client_.call(request).has_done());
  }
  std::string notes() const { return agent_.directory() + "/starts"; }
  int starts() const {
    int count = 0;
    std::ifstream file(notes());
    for (std::string line; std::getline(file, line);) {
      ++count;
    }
    return count;
  }
  void expect_cold_runs_until_it_starts_again() {
    EXPECT_TRUE(eventually([&] {
      const Stream stream = run(client_, python("print(1)", true));
      EXPECT_EQ(stream.out, "1\n");
      return starts() >= 2;
    }));
  }
};

TEST_F(AgentWarmParent, IsStartedAgainWhenNoSpareGetsReady) {
  configure_parent("c.send(b'up')\nwhile True: signal.pause()");
  expect_cold_runs_until_it_starts_again();
}

TEST_F(AgentWarmParent, IsStartedAgainWhenItClosesASparesPipe) {
  configure_parent(
      "c.send(b'up')\nwhile True:\n"
      "  for fd in socket.recv_fds(c, 16, 4)[1]: os.close(fd)");
  expect_cold_runs_until_it_starts_again();
}

TEST_F(AgentWarmParent, IsStartedAgainWhenItLiesAboutItsHelper) {
  configure_parent(
      "import struct\nc.send(b'up')\nwhile True:\n"
      "  s = socket.socket(fileno=socket.recv_fds(c, 16, 1)[1][0])\n"
      "  pipe = socket.recv_fds(s, 16, 2)[1][1]\n"
      "  os.write(pipe, struct.pack('=IiQQIiQQ', 6, os.getppid(), 0, 0, 1, os.getppid(), 0, 0))\n"
      "  signal.pause()");
  expect_cold_runs_until_it_starts_again();
}

// Negative control: a cold interpreter has none.
TEST_F(AgentWarm, HasItsMemoryInLargePages) {
  std::string large_pages;
  std::getline(std::ifstream("/sys/kernel/mm/transparent_hugepage/enabled"), large_pages);
  if (large_pages.empty() || large_pages.find("[never]") != std::string::npos) {
    GTEST_SKIP() << "the kernel has no transparent huge pages: " << large_pages;
  }
  const std::string script =
      "print(sum(int(l.split()[1]) for l in open('/proc/self/smaps') if l.startswith('AnonHuge')))";
  EXPECT_GE(std::stoi(run_warm(script).out), 4096);
  EXPECT_LT(std::stoi(run_cold(script).out), 4096);
}

TEST_F(AgentWarm, IsReadyForTheUsualEnvironment) {
  const auto faults = [this] {
    return std::stoi(
        run_warm("import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)").out);
  };
  const int usual = faults();
  usual_ = false;
  EXPECT_LT(usual + 20, faults());
}

// Else each of them would wait for the spare that is made after the one before.
TEST_F(AgentWarm, RunsBackToBackAreServedByTwoHelpersInTurn) {
  const std::string script = "import os; print(os.getppid())";
  std::set<std::string> helpers = {run_warm(script).out};
  for (int i = 0; i < 100; ++i) {
    const Stream stream = run(client_, python(script, true));
    if (stream.exited.warm()) {
      helpers.insert(stream.out);
    }
  }
  EXPECT_GE(helpers.size(), 2U);
}

// One run more than there are spares, several times: on a machine that makes none in time it starts
// cold.
TEST_F(AgentWarm, ARunWaitsForASpareThatIsBeingMade) {
  int all_warm = 0;
  for (int i = 0; i < 20 && all_warm < 3; ++i) {
    run_warm("");
    std::vector<v1::Spawn> three;
    for (int each = 0; each < 3; ++each) {
      three.push_back(python("print('ran')", true));
    }
    for (const v1::Spawn& spawn : three) {
      ASSERT_TRUE(client_.spawn(spawn).has_done());
    }
    int warm = 0;
    for (const v1::Spawn& spawn : three) {
      const Stream stream = attach_and_read(client_, spawn.execution_id());
      EXPECT_EQ(stream.out, "ran\n");
      warm += stream.exited.warm() ? 1 : 0;
    }
    all_warm += warm == 3 ? 1 : 0;
  }
  EXPECT_EQ(all_warm, 3);
}

TEST_F(AgentWarm, ARunThatWaitsForASpareCanBeKilled) {
  for (int i = 0; i < 5; ++i) {
    run_warm("");
    std::vector<v1::Spawn> spawns;
    for (int each = 0; each < 4; ++each) {
      spawns.push_back(python("import time; time.sleep(600)", true));
    }
    v1::AgentRequest spawn;
    v1::AgentRequest kill;
    for (const v1::Spawn& each : spawns) {
      *spawn.mutable_spawn() = each;
      client_.send(spawn);
      kill.mutable_kill()->set_execution_id(each.execution_id());
      kill.mutable_kill()->set_reason("cancelled");
      client_.send(kill);
    }
    for (const v1::Spawn& each : spawns) {
      const Stream stream = attach_and_read(client_, each.execution_id());
      EXPECT_EQ(stream.exited.reason(), "cancelled");
      EXPECT_EQ(stream.exited.signal(), SIGKILL);
    }
  }
}

TEST_F(AgentWarm, ManyRunsAtOnceAllEnd) {
  ASSERT_TRUE(eventually([&] { return is_warm_now(); }));
  // One script for all: writing it anew would take it from under a run that is starting.
  v1::Spawn spawn = python("import time; time.sleep(0.3); print('slept')", true);
  std::vector<std::string> ids;
  for (int i = 0; i < 6; ++i) {
    spawn.set_execution_id("many" + std::to_string(i));
    client_.spawn(spawn);
    ids.push_back(spawn.execution_id());
  }
  for (const std::string& id : ids) {
    EXPECT_EQ(attach_and_read(client_, id).out, "slept\n");
  }
  EXPECT_TRUE(eventually([&] { return is_warm_now(); }));
}

}  // namespace
}  // namespace runbus::agent_test
