#pragma once

#include <sys/types.h>

#include <cstddef>

// Messages with descriptors, and the closing of descriptors, without a library.
namespace runbus::agent {

inline constexpr int kMostDescriptors = 4;

struct Message {
  ssize_t size = 0;
  int descriptors[kMostDescriptors];
};

// The next message, with `count` descriptors. At the end of the socket the process ends, and also
// when no descriptor is free: the agent starts anew.
Message receive(int socket, char* data, std::size_t room, int count);

void close_range(unsigned first, unsigned last);

}  // namespace runbus::agent
