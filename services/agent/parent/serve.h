#pragma once

// How a parent of spares (warm_interpreter.h) serves the agent, whatever its interpreter is. All of
// this folder runs inside of that interpreter: it brings no library and needs of the C library only
// what both glibc and musl have.
namespace runbus::agent {

// The parent's socket to the agent, and a helper's.
inline constexpr int kControl = 3;

// Which descriptors a helper and a spare close: all that they do not need, or only those that are
// ours, since the interpreter's own are in use.
enum class Descriptors { kAll, kOurs };

// Says "up", and forks a helper for each socket that comes, which forks a spare for each job's
// socket that comes there. Returns in the spares alone, with the job's socket. The process that
// calls it has one thread, or others that do nothing meanwhile.
int serve(Descriptors which);

}  // namespace runbus::agent
