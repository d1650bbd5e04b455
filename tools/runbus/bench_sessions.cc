// What an idle session costs its node: agent, interpreters kept warm, and what the worker keeps.
#include <stdexcept>
#include <thread>

#include "proto/support/id.h"
#include "tools/runbus/bench_rig.h"
#include "tools/runbus/commands.h"
#include "tools/runbus/files.h"

namespace runbus::cli {
namespace {

constexpr std::chrono::seconds kBound{60};
// What is kept for runs that follow each other goes after ten seconds.
constexpr std::chrono::seconds kSettle{12};

// Kilobytes of the process and all that descends from it, pages that several share counted once.
double proportional_kilobytes(pid_t pid) {
  const std::string directory = "/proc/" + std::to_string(pid);
  const Result<std::string> rollup = read_file(directory + "/smaps_rollup", 65536);
  const std::size_t at = rollup ? rollup->find("Pss:") : std::string::npos;
  if (at == std::string::npos) {
    throw std::runtime_error("cannot read the memory of process " + std::to_string(pid) +
                             ", as root one can");
  }
  double sum = std::stod(rollup->substr(at + 4));
  for (const pid_t child : children_of(pid)) {
    sum += proportional_kilobytes(child);
  }
  return sum;
}

void open_session(Line& line, const char* language, const char* code) {
  const std::string params = code_params(language, code, ",\"session_id\":\"" + make_uuid() + "\"");
  const Result<rapidjson::Document> result = line.client->call("execute.code", params, kBound);
  if (!result) {
    throw std::runtime_error(describe(result.error()));
  }
}

}  // namespace

void bench_sessions(Rig& rig) {
  if (rig.up_pid < 0) {
    rig.report.skip("memory per idle session", "the processes of --url are not known");
    return;
  }
  Line line(rig.gateway);
  open_session(line, "python", "print(1)");
  std::this_thread::sleep_for(kSettle);
  const double before = proportional_kilobytes(rig.up_pid);
  const int count = rig.rounds(20, 5);
  for (int i = 0; i < count; ++i) {
    open_session(line, "python", "print(1)");
  }
  std::this_thread::sleep_for(kSettle);
  rig.report.add({.what = "memory per idle session (python)",
                  .value = (proportional_kilobytes(rig.up_pid) - before) / count / 1024,
                  .unit = "MB",
                  .baseline_name = {},
                  .baseline = 0,
                  .budget = {},
                  .met = {}});
}

}  // namespace runbus::cli
