#pragma once

#include <memory>

#include "runbus/v1/agent.pb.h"
#include "services/agent/failure.h"
#include "services/agent/warm_kind.h"

namespace runbus::agent {

// Node.js (node/parent.js): its parent is started after the first run that a spare could have been.
// What only a cold start can be (options before the script, what Node.js reads from its environment
// at its start) starts cold.
std::unique_ptr<WarmKind> make_warm_node(const v1::Warm& warm);

}  // namespace runbus::agent
