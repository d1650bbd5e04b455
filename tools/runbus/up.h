#pragma once

#include "tools/runbus/arguments.h"

namespace runbus::cli {

// `runbus up`: starts broker, gateway and workers, sees a real program run through the public
// WebSocket, prints the address, keeps all of it running until SIGINT or SIGTERM, and then leaves
// neither process nor socket behind. Returns the exit code. Call from a single-threaded process.
int up(const UpOptions& options);

}  // namespace runbus::cli
