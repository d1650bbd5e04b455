// Included ahead of everything in the build with ThreadSanitizer. protobuf's headers make map fields
// larger under it, which the system's library, built without, knows nothing of. The C++ library,
// which has to know, is told first.
#include <version>
#undef __SANITIZE_THREAD__
