#pragma once

#include "proto/support/unique_fd.h"

// The signals that ask a process to end, SIGTERM and SIGINT, as something its loop reads. They are
// blocked, so they never interrupt a system call: libzmq gives up what it was doing when that
// happens.
namespace runbus {

// Blocks them for this thread and those it starts from now on (so call it first), and returns a
// signalfd of them. Programs started later inherit the mask; whoever starts one resets it. Throws
// std::system_error.
UniqueFd block_termination_signals();

// The next signal that `fd` has; 0 when there is none.
int next_signal(const UniqueFd& fd);

}  // namespace runbus
