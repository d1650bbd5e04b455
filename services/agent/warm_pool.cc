#include "services/agent/warm_pool.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "services/agent/warm_interpreter.h"
#include "services/agent/warm_node.h"
#include "services/agent/warm_python.h"

namespace runbus::agent {

WarmPool::WarmPool(EventLoop& loop, Reaper& reaper, std::string workspace)
    : loop_(loop), reaper_(reaper), workspace_(std::move(workspace)) {}

WarmPool::~WarmPool() = default;

// Spares are followed by descriptors of processes, which gVisor does not have.
bool WarmPool::possible() {
  return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0))) || errno != ENOSYS;
}

std::unique_ptr<WarmSource> WarmPool::make(const v1::Warm& warm) {
  if (warm.argv().empty() || !possible()) {
    return nullptr;
  }
  std::unique_ptr<WarmKind> kind;
  if (warm.name() == "python") {
    kind = make_warm_python(warm, workspace_);
  } else if (warm.name() == "node") {
    kind = make_warm_node(warm);
  } else {
    return nullptr;
  }
  return std::make_unique<WarmInterpreter>(loop_, reaper_, warm, std::move(kind));
}

void WarmPool::configure(const google::protobuf::RepeatedPtrField<v1::Warm>& wanted) {
  std::vector<std::unique_ptr<WarmSource>> next;
  for (const v1::Warm& warm : wanted) {
    const bool twice = std::any_of(next.begin(), next.end(), [&warm](const auto& source) {
      return source->warm().name() == warm.name();
    });
    if (twice) {
      continue;
    }
    const auto same = std::find_if(sources_.begin(), sources_.end(), [&warm](const auto& source) {
      return source && source->warm().SerializeAsString() == warm.SerializeAsString();
    });
    auto source = same != sources_.end() ? std::move(*same) : make(warm);
    if (source) {
      next.push_back(std::move(source));
    }
  }
  sources_ = std::move(next);
}

WarmSource* WarmPool::find(const std::string& name) const {
  const auto found = std::find_if(sources_.begin(), sources_.end(), [&name](const auto& source) {
    return source->warm().name() == name;
  });
  return found == sources_.end() ? nullptr : found->get();
}

bool WarmPool::try_spawn(const std::string& name, const ProgramPlan& plan, StartedRun& run) {
  WarmSource* const source = find(name);
  return source != nullptr && source->try_spawn(plan, run);
}

bool WarmPool::wait_for_spare(const std::string& name, SpareWait& wait, std::function<void()> go) {
  WarmSource* const source = find(name);
  return source != nullptr && source->wait_for_spare(wait, std::move(go));
}

}  // namespace runbus::agent
