#include "tools/runbus/text_server.h"

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/websocket/stream.hpp>
#include <deque>

namespace runbus::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
namespace websocket = beast::websocket;
using tcp = asio::ip::tcp;

class Connection final : public TextServer::Peer, public std::enable_shared_from_this<Connection> {
 public:
  Connection(tcp::socket socket, std::shared_ptr<const TextServer::Events> events)
      : ws_(std::move(socket)), events_(std::move(events)) {}

  void start() {
    boost::system::error_code ignored;
    beast::get_lowest_layer(ws_).socket().set_option(tcp::no_delay(true), ignored);
    http::async_read(ws_.next_layer(), buffer_, request_,
                     [self = shared_from_this()](boost::system::error_code error, std::size_t) {
                       if (!error) {
                         self->answer();
                       }
                     });
  }

  void send(std::string text) override {
    outbox_.push_back(std::move(text));
    if (outbox_.size() == 1) {
      write();
    }
  }

  void drop() override { beast::get_lowest_layer(ws_).close(); }

  void hold(bool held) override {
    held_ = held;
    if (!held && !reading_) {
      read();
    }
  }

  std::string authorization() const override {
    return std::string(request_[http::field::authorization]);
  }

 private:
  void answer() {
    if (events_->admit && !events_->admit(authorization())) {
      refusal_ = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
      asio::async_write(
          ws_.next_layer(), asio::buffer(refusal_),
          [self = shared_from_this()](boost::system::error_code, std::size_t) { self->drop(); });
      return;
    }
    ws_.async_accept(request_, [self = shared_from_this()](boost::system::error_code error) {
      if (!error) {
        self->read();
      }
    });
  }

  void read() {
    if (held_) {
      return;
    }
    reading_ = true;
    ws_.async_read(
        buffer_, [self = shared_from_this()](boost::system::error_code error, std::size_t) {
          self->reading_ = false;
          if (error) {
            return;
          }
          const std::string_view text(static_cast<const char*>(self->buffer_.data().data()),
                                      self->buffer_.size());
          self->events_->on_text(self, text);
          self->buffer_.consume(self->buffer_.size());
          self->read();
        });
  }

  void write() {
    ws_.text(true);
    ws_.async_write(asio::buffer(outbox_.front()),
                    [self = shared_from_this()](boost::system::error_code error, std::size_t) {
                      if (error) {
                        return;
                      }
                      self->outbox_.pop_front();
                      if (!self->outbox_.empty()) {
                        self->write();
                      }
                    });
  }

  websocket::stream<beast::tcp_stream> ws_;
  std::shared_ptr<const TextServer::Events> events_;
  http::request<http::string_body> request_;
  beast::flat_buffer buffer_;
  std::string refusal_;
  std::deque<std::string> outbox_;
  bool held_ = false;
  bool reading_ = false;
};

}  // namespace

struct TextServer::Impl : std::enable_shared_from_this<Impl> {
  Impl(asio::io_context& io, Events handlers)
      : acceptor(io, tcp::endpoint(asio::ip::address_v4::loopback(), 0)),
        events(std::make_shared<const Events>(std::move(handlers))) {}

  void accept() {
    acceptor.async_accept(
        [self = shared_from_this()](boost::system::error_code error, tcp::socket socket) {
          if (error) {
            return;
          }
          std::make_shared<Connection>(std::move(socket), self->events)->start();
          self->accept();
        });
  }

  tcp::acceptor acceptor;
  std::shared_ptr<const Events> events;
};

TextServer::TextServer(asio::io_context& io, Events events)
    : impl_(std::make_shared<Impl>(io, std::move(events))) {
  impl_->accept();
}

TextServer::~TextServer() {
  boost::system::error_code ignored;
  impl_->acceptor.close(ignored);
}

std::uint16_t TextServer::port() const { return impl_->acceptor.local_endpoint().port(); }

}  // namespace runbus::cli
