// Programs from call to result, beside the same interpreter started cold without runbus.
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

struct Interpreter {
  std::string name;
  std::string language;
  std::string code;
  std::vector<std::string> cold;
};

double cold_p50(const Interpreter& interpreter, int rounds) {
  std::vector<double> samples;
  for (int i = 0; i < rounds; ++i) {
    samples.push_back(run_cold(interpreter.cold));
  }
  return percentile(samples, 0.5);
}

void call(Line& line, const std::string& method, const std::string& params) {
  const Result<rapidjson::Document> result = line.client->call(method, params, kCallBound);
  if (!result) {
    throw std::runtime_error(method + ": " + describe(result.error()));
  }
}

void bench_interpreter(Rig& rig, const Interpreter& interpreter) {
  if (!std::filesystem::exists(interpreter.cold.front())) {
    rig.report.skip(interpreter.name, interpreter.cold.front() + " is not there to compare with");
    return;
  }
  Line line(rig.gateway);
  const std::string params = code_params(interpreter.language, interpreter.code);
  measure_calls(line, "execute.code", params, 1, 5);
  const Rate warm = measure_calls(line, "execute.code", params, 1, rig.rounds(200, 15));
  const double cold = cold_p50(interpreter, rig.rounds(40, 5));
  rig.report.add({.what = interpreter.name + " print(1), p50",
                  .value = warm.p50 * 1e3,
                  .unit = "ms",
                  .baseline_name = "ms cold " + interpreter.cold.front(),
                  .baseline = cold * 1e3,
                  .budget = "<= 0.2 x",
                  .met = warm.p50 <= 0.2 * cold});
}

void bench_rate(Rig& rig, const Interpreter& interpreter) {
  if (!std::filesystem::exists(interpreter.cold.front())) {
    return;  // said by bench_interpreter
  }
  Line line(rig.gateway);
  const std::string params = code_params(interpreter.language, interpreter.code);
  measure_calls(line, "execute.code", params, 4, 8);
  const Rate warm = measure_calls(line, "execute.code", params, 4, rig.rounds(400, 20));
  rig.report.add({.what = interpreter.name + " runs, 4 in flight",
                  .value = warm.per_second,
                  .unit = "runs/s",
                  .baseline_name = "runs/s cold, 4 at once",
                  .baseline = cold_rate(interpreter.cold, 4, rig.rounds(200, 16)),
                  .budget = {},
                  .met = {}});
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

void bench_new_session(Rig& rig, const Interpreter& interpreter, bool from_pool) {
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
  rig.report.add({.what = "new session to first output (" + interpreter.language + "), " +
                          (from_pool ? "pool" : "no pool") + ", p50",
                  .value = p50 * 1e3,
                  .unit = "ms",
                  .baseline_name = {},
                  .baseline = 0,
                  .budget = from_pool ? "<= 5 ms" : "<= 60 ms",
                  .met = p50 <= budget});
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
  bench_new_session(rig, bash, true);
  bench_new_session(rig, python, true);
  bench_new_session(rig, bash, false);
}

}  // namespace runbus::cli
