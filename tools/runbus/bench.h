#pragma once

#include "tools/runbus/arguments.h"

namespace runbus::cli {

// `runbus bench`: measures a runbus (its own, in a temporary state directory, unless --url names
// one) and, in the same run on the same machine, the bare parts it is made of; prints both with
// their ratio and DESIGN.md's budget. 0 when everything could be measured, also when a budget is
// missed; 1 when a group failed.
int bench(const BenchOptions& options);

// The other end of a baseline, in a process of its own: ws-echo, zmq-proxy FRONT BACK, zmq-echo
// BACK.
int bench_peer(const BenchPeerOptions& options);

}  // namespace runbus::cli
