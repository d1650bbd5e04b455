#include "services/agent/warm_pool.h"

#include <algorithm>

#include "services/agent/warm_interpreter.h"

namespace runbus::agent {

WarmPool::WarmPool(EventLoop& loop, Reaper& reaper) : loop_(loop), reaper_(reaper) {}

WarmPool::~WarmPool() = default;

void WarmPool::configure(const google::protobuf::RepeatedPtrField<v1::Warm>& wanted) {
  std::vector<std::unique_ptr<WarmInterpreter>> next;
  for (const v1::Warm& warm : wanted) {
    const bool known = warm.name() == "python" && !warm.argv().empty();
    const bool twice = std::any_of(next.begin(), next.end(), [&warm](const auto& interpreter) {
      return interpreter->warm().name() == warm.name();
    });
    if (!known || twice) {
      continue;
    }
    const auto same =
        std::find_if(interpreters_.begin(), interpreters_.end(), [&warm](const auto& interpreter) {
          return interpreter && interpreter->warm().SerializeAsString() == warm.SerializeAsString();
        });
    next.push_back(same != interpreters_.end()
                       ? std::move(*same)
                       : std::make_unique<WarmInterpreter>(loop_, reaper_, warm));
  }
  interpreters_ = std::move(next);
}

bool WarmPool::try_spawn(const std::string& name, const ProgramPlan& plan, StartedRun& run) {
  const auto found =
      std::find_if(interpreters_.begin(), interpreters_.end(),
                   [&name](const auto& interpreter) { return interpreter->warm().name() == name; });
  return found != interpreters_.end() && (*found)->try_spawn(plan, run);
}

}  // namespace runbus::agent
