#pragma once

// What makes a process cheaper that moves messages all the time. Linked into those alone.
namespace runbus {

// First thing in main():
// - malloc keeps what streams free, up to some megabytes, instead of giving it back to the kernel
//   after each burst and taking it again page by page: the page faults of that were a third of a
//   stream's processor time.
// - getpid() is answered from memory, also for libraries: libzmq asks for it about ten times per
//   message to notice a fork, and the C library asks the kernel each time. A child of fork() asks
//   anew; one of _Fork(), vfork() or a bare clone() must not call it.
void tune_message_process();

}  // namespace runbus
