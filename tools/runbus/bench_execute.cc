// Programs from call to result, beside the same interpreter started cold without runbus.
#include <algorithm>
#include <filesystem>
#include <stdexcept>
#include <thread>

#include "proto/support/id.h"
#include "proto/wire/transcoder.h"
#include "tools/runbus/bench_rig.h"
#include "tools/runbus/commands.h"

namespace runbus::cli {
namespace {

constexpr std::chrono::seconds kCallBound{60};
constexpr std::chrono::milliseconds kPoolRefill{1500};
constexpr std::chrono::milliseconds kSpareRefill{400};
constexpr std::chrono::seconds kSpareBound{30};
constexpr int kAtOnce = 4;

struct Interpreter {
  std::string name;
  std::string language;
  std::string code;
  std::vector<std::string> cold;
};

double cold_p50(const Interpreter& interpreter, int rounds, std::chrono::milliseconds pause = {}) {
  std::vector<double> samples;
  for (int i = 0; i < rounds; ++i) {
    std::this_thread::sleep_for(pause);
    samples.push_back(run_cold(interpreter.cold));
  }
  return percentile(samples, 0.5);
}

rapidjson::Document call(Line& line, const std::string& method, const std::string& params) {
  Result<rapidjson::Document> result = line.client->call(method, params, kCallBound);
  if (!result) {
    throw std::runtime_error(method + ": " + describe(result.error()));
  }
  return std::move(*result);
}

// Runs with a pause before each, in which the session makes a spare.
double spaced_p50(Line& line, const std::string& params, int rounds) {
  std::vector<double> samples;
  int cold = 0;
  for (int i = 0; i < rounds; ++i) {
    std::this_thread::sleep_for(kSpareRefill);
    const auto start = BenchClock::now();
    const rapidjson::Document result = call(line, "execute.code", params);
    samples.push_back(seconds_since(start));
    cold += result["usage"]["warm"].GetBool() ? 0 : 1;
  }
  if (cold * 2 > rounds) {
    throw std::runtime_error("no spare interpreter was ready for most of the runs");
  }
  return percentile(samples, 0.5);
}

// Until a run has found a spare: of some interpreters the first is made after the first run.
void await_spare(Line& line, const std::string& params) {
  const auto end = BenchClock::now() + kSpareBound;
  while (!call(line, "execute.code", params)["usage"]["warm"].GetBool()) {
    if (BenchClock::now() > end) {
      throw std::runtime_error("no spare interpreter got ready");
    }
    std::this_thread::sleep_for(kSpareRefill);
  }
}

void bench_interpreter(Rig& rig, const Interpreter& interpreter) {
  if (!std::filesystem::exists(interpreter.cold.front())) {
    rig.report.skip(interpreter.name, interpreter.cold.front() + " is not there to compare with");
    return;
  }
  Line line(rig.gateway);
  const std::string params = code_params(interpreter.language, interpreter.code);
  await_spare(line, params);
  measure_calls(line, "execute.code", params, 1, 5);
  const Rate warm = measure_calls(line, "execute.code", params, 1, rig.rounds(200, 15));
  const double spaced = spaced_p50(line, params, rig.rounds(30, 7));
  // After a pause everything is slower, a cold start too.
  const double spaced_cold = cold_p50(interpreter, rig.rounds(30, 7), kSpareRefill);
  const double cold = cold_p50(interpreter, rig.rounds(40, 5));
  const auto add = [&](const std::string& how, double p50, double baseline) {
    rig.report.add({.what = interpreter.name + " print(1), " + how + ", p50",
                    .value = p50 * 1e3,
                    .unit = "ms",
                    .baseline_name = "ms cold " + interpreter.cold.front(),
                    .baseline = baseline * 1e3,
                    .budget = "<= 0.2 x",
                    .met = p50 <= 0.2 * baseline});
  };
  add("with pauses", spaced, spaced_cold);
  add("back to back", warm.p50, cold);
}

void bench_rate(Rig& rig, const Interpreter& interpreter) {
  if (!std::filesystem::exists(interpreter.cold.front())) {
    return;  // said by bench_interpreter
  }
  // A session each, since the processors of one are limited and those of the cold ones are not.
  Line line(rig.gateway);
  std::vector<std::string> sessions(kAtOnce);
  std::generate(sessions.begin(), sessions.end(), make_uuid);
  const auto measure_runs = [&](int count) {
    std::vector<std::string> idle = sessions;
    return measure(line.io, kAtOnce, count, [&](std::function<void(const Error*)> done) {
      const std::string session = idle.back();
      idle.pop_back();
      line.client->call(
          "execute.code",
          code_params(interpreter.language, interpreter.code,
                      ",\"session_id\":\"" + session + "\""),
          [&idle, session, done = std::move(done)](const Result<const rapidjson::Value*>& reply) {
            idle.push_back(session);
            const Error error = reply ? Error{} : reply.error();
            done(reply ? nullptr : &error);
          });
    });
  };
  // Steady state: a new session starts its interpreters beside its first runs.
  for (int i = 0; i < 2; ++i) {
    measure_runs(3 * kAtOnce);
    std::this_thread::sleep_for(kPoolRefill);
  }
  const Rate warm = measure_runs(rig.rounds(400, 100));
  const double cold = cold_rate(interpreter.cold, kAtOnce, rig.rounds(200, 16));
  rig.report.add({.what = interpreter.name + " runs, 4 in flight",
                  .value = warm.per_second,
                  .unit = "runs/s",
                  .baseline_name = "runs/s cold, 4 at once",
                  .baseline = cold,
                  .budget = ">= 3 x",
                  .met = warm.per_second >= 3 * cold});
  for (const std::string& session : sessions) {
    call(line, "session.close", "{\"session_id\":\"" + session + "\"}");
  }
}

// Seconds from the wish for a new session to its first output.
double new_session(Rig& rig, const Interpreter& interpreter, bool from_pool) {
  std::optional<double> first;
  BenchClock::time_point start;
  Line line(rig.gateway, {.on_notification =
                              [&](std::string_view method, const rapidjson::Value&) {
                                if (method == "execute.output" && !first) {
                                  first = seconds_since(start);
                                }
                              },
                          .on_closed = {},
                          .on_frame = {}});
  const std::string session = make_uuid();
  start = BenchClock::now();
  if (!from_pool) {
    // The pool has none of this kind.
    call(line, "session.open",
         "{\"session_id\":\"" + session + "\",\"limits\":{\"processes\":99}}");
  }
  call(line, "execute.code_streaming",
       code_params(interpreter.language, interpreter.code,
                   ",\"stdin\":\"\",\"session_id\":\"" + session + "\""));
  if (!first) {
    throw std::runtime_error("a new session: no output");
  }
  call(line, "session.close", "{\"session_id\":\"" + session + "\"}");
  return *first;
}

// DESIGN gives milliseconds, from a machine on which a cold python3 took 9.5 of them: elsewhere the
// same share of one counts.
void bench_new_session(Rig& rig, const Interpreter& interpreter, bool from_pool, double cold) {
  std::vector<double> samples;
  for (int i = 0; i < rig.rounds(20, 5); ++i) {
    if (from_pool) {
      // Nothing tells when the pool is full again; one that is not shows in the figure.
      std::this_thread::sleep_for(kPoolRefill);
    }
    samples.push_back(new_session(rig, interpreter, from_pool));
  }
  const double p50 = percentile(samples, 0.5);
  const double budget = from_pool ? 0.005 : 0.060;
  const double share = budget / 0.0095;
  rig.report.add({.what = "new session to first output (" + interpreter.language + "), " +
                          (from_pool ? "pool" : "no pool") + ", p50",
                  .value = p50 * 1e3,
                  .unit = "ms",
                  .baseline_name = "ms cold /usr/bin/python3",
                  .baseline = cold * 1e3,
                  .budget = from_pool ? "<= 5 ms or 0.53 x" : "<= 60 ms or 6.3 x",
                  .met = p50 <= budget || p50 <= share * cold});
}

}  // namespace

void bench_execute(Rig& rig) {
  const Interpreter python{
      "python", "python", "print(1)", {"/usr/bin/python3", "-I", "-c", "print(1)"}};
  const Interpreter node{
      "node", "javascript", "console.log(1)", {"/usr/bin/node", "-e", "console.log(1)"}};
  bench_interpreter(rig, python);
  bench_interpreter(rig, node);
  bench_rate(rig, python);
  const Interpreter bash{"bash", "bash", "echo 1", {}};
  const double cold = cold_p50(python, rig.rounds(40, 10));
  bench_new_session(rig, bash, true, cold);
  bench_new_session(rig, python, true, cold);
  bench_new_session(rig, bash, false, cold);
}

}  // namespace runbus::cli
