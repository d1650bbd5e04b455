#pragma once

#include <memory>
#include <string>

#include "runbus/v1/agent.pb.h"
#include "services/agent/failure.h"
#include "services/agent/warm_kind.h"

namespace runbus::agent {

// Python (python/parent.py): its parent is there before the first run. A spare that is told to be
// what it cannot be executes the program. `home`: where programs live.
std::unique_ptr<WarmKind> make_warm_python(const v1::Warm& warm, std::string home);

}  // namespace runbus::agent
