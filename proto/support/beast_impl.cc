// The one unit in which Asio and Beast are compiled (BOOST_ASIO_SEPARATE_COMPILATION): whoever uses
// either links runbus_beast.
#include <boost/asio/impl/src.hpp>
#include <boost/beast/src.hpp>
