#include "services/session/process_engine.h"

#include "services/session/doctor.h"

namespace runbus::session {

std::string ProcessEngine::explain(const std::string& log) const {
  return explain_sandbox_failure("process", inspect_machine(), log);
}

Result<void> ProcessEngine::start(Start& start) {
  Launch launch;
  launch.argv = start.command;
  launch.environment = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                        "HOME=" + start.spec.workspace, "USER=runbus", "LANG=C.UTF-8"};
  launch.descriptors = start.descriptors();
  launch.limits = resource_limits(start.spec.limits);
  launch.cgroups = start.join_descriptors();
  launch.working_directory = start.spec.workspace;
  const Result<ProcessId> first = start_program(launch, [&start](ProcessId process) {
    start.state.first = process;
    return start.record();
  });
  return first ? Result<void>() : Result<void>(first.error());
}

}  // namespace runbus::session
