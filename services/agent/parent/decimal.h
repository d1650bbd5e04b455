#pragma once

#include <cstddef>

// Numbers in the names of /proc, without a library.
namespace runbus::agent {

inline constexpr std::size_t kMostDigits = 12;  // and the zero byte

// Of a number that is not negative. Where it begins in `digits`.
inline const char* to_decimal(int number, char (&digits)[kMostDigits]) {
  char* digit = digits + kMostDigits;
  *--digit = '\0';
  do {
    *--digit = static_cast<char>('0' + number % 10);
    number /= 10;
  } while (number > 0);
  return digit;
}

}  // namespace runbus::agent
