#pragma once

// Threads over a fork(2). Node.js has threads that wait for work (those of V8's compiler and
// collector, which its end joins), and of a forked process only the caller goes on. Here is what
// lets them go on too. This object is loaded before the C library (LD_PRELOAD) and has these
// functions of POSIX in its place:
//
// - pthread_create() of the parent gives a thread a stack of ours, which stays where it is in the
//   child, where the C library would use it anew;
// - pthread_cond_wait() and its like: a condition variable is a counter and its waiters sleep on
//   its value. So it says nothing of who waits, and fork copies it whole; the C library's counts
//   its waiters, and in a child would wait for those that are not there. A thread of the parent
//   that waits without a time limit leaves behind how to go on from there, as setjmp(3) does;
// - pthread_join() of the child knows the threads that go on under another name.
//
// In the child a new thread jumps to where a waiting one was once somebody wakes that one or waits
// for its end: most programs are over before, and a thread costs them as much as their output does.
// What it has of its own (thread-local variables) is as in a new thread. One that cannot be made
// then is the end of the process (SIGABRT). Threads that did something else (libuv's for
// delayed work, the one for SIGUSR1) are not there any more, and to join one is to be told that it
// has ended.
namespace runbus::agent {

// Waits until no thread of the process but the caller's does anything. Ends the process when some
// do after 10 s.
void settle_threads();

// In the child of a fork: from here on its threads go on when they have to.
void inherit_threads();

}  // namespace runbus::agent
