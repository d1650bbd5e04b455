#pragma once

// What a process of Node.js needs to be forked, beside its threads (threads.h).
namespace runbus::agent {

// Before the first fork, once all is loaded: lets a child have all of the memory (V8 has the kernel
// leave its heap out), and learns which event queues are open.
void prepare_to_fork();

// In the child: gives it event queues of its own in place of those that it shares with its parent
// and all of its siblings.
void part_from_parent();

}  // namespace runbus::agent
