#include "gateway/http_client.h"

#include <algorithm>
#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/status.hpp>
#include <exception>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

namespace leat::gateway {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;

constexpr size_t kPieceBytes = 64UL * 1024;
constexpr uint32_t kHeadBytesMax = 64 * 1024;
constexpr size_t kErrorTextBytesMax = 4UL * 1024;  // of a reply that becomes an error message

bool IsIdempotent(std::string_view method) { return method == "GET" || method == "HEAD"; }

// Whether it can stand in a line of a head.
bool IsOneLine(std::string_view text) {
  return std::none_of(text.begin(), text.end(), [](char c) {
    const auto byte = static_cast<uint8_t>(c);
    return byte < 0x20 || byte == 0x7f;
  });
}

}  // namespace

struct HttpClient::Impl {
  Impl(std::string given_host, uint16_t given_port, std::chrono::milliseconds given_timeout)
      : host(std::move(given_host)),
        port(given_port),
        timeout(given_timeout),
        authority((host.find(':') == std::string::npos ? host : "[" + host + "]") + ":" +
                  std::to_string(port)) {}

  // Called once, before any OnBody.
  using OnHead = std::function<void(int status, std::string_view content_type)>;

  Result<std::string> Head(std::string_view method, std::string_view target, size_t body_bytes,
                           std::string_view content_type, std::string_view bearer_token) const;
  Status Exchange(std::string_view method, std::string_view target, std::string_view body,
                  std::string_view content_type, std::string_view bearer_token,
                  const OnHead& on_head, const OnBody& on_piece);
  Status ExchangeOnce(bool head_only, std::string_view head, std::string_view body,
                      const OnHead& on_head, const OnBody& on_piece, bool* was_dead);
  Status Connect();
  bool ReusableConnection();
  void StartStep();
  void RunToEnd();
  Error Broken(std::string_view what, error_code error) const;

  const std::string host;
  const uint16_t port;
  const std::chrono::milliseconds timeout;
  const std::string authority;

  asio::io_context io{1};
  std::optional<beast::tcp_stream> stream;  // empty: not connected
  beast::flat_buffer input;
  std::vector<char> piece = std::vector<char>(kPieceBytes);
};

void HttpClient::Impl::StartStep() {
  timeout == kNoTimeout ? stream->expires_never() : stream->expires_after(timeout);
}

// Runs the one operation that was started, to its end: tcp_stream's deadline bounds it.
void HttpClient::Impl::RunToEnd() {
  io.restart();
  io.run();
}

Error HttpClient::Impl::Broken(std::string_view what, error_code error) const {
  std::string reason = error.message();
  if (error == beast::error::timeout) {
    reason = "nothing for " + std::to_string(timeout.count()) + " ms";
  } else if (error == http::error::end_of_stream || error == http::error::partial_message ||
             error == asio::error::eof) {
    reason = "the server closed the connection before the end of its answer";
  }
  return {ErrorClass::kUnavailable, std::string(what) + " " + authority + ": " + reason,
          "is the server running there?"};
}

Status HttpClient::Impl::Connect() {
  input.clear();
  stream.emplace(io);
  error_code error;
  tcp::resolver resolver(io);
  const auto found =
      resolver.resolve(host, std::to_string(port), tcp::resolver::numeric_service, error);
  if (!error) {
    StartStep();
    stream->async_connect(found, [&](error_code result, const tcp::endpoint&) { error = result; });
    RunToEnd();
  }
  if (error) {
    stream.reset();
    return std::unexpected(Broken("cannot connect to", error));
  }
  error_code ignored;
  stream->socket().set_option(tcp::no_delay(true), ignored);
  return {};
}

// Whether there is a connection that the server has not closed, as far as one can know before using
// it.
bool HttpClient::Impl::ReusableConnection() {
  if (!stream) return false;
  error_code error;
  char byte;
  stream->socket().non_blocking(true, error);
  if (!error) {
    stream->socket().receive(asio::buffer(&byte, 1), tcp::socket::message_peek, error);
  }
  if (error == asio::error::would_block && input.size() == 0) return true;
  stream.reset();  // closed, or it speaks unasked
  return false;
}

Result<std::string> HttpClient::Impl::Head(std::string_view method, std::string_view target,
                                           size_t body_bytes, std::string_view content_type,
                                           std::string_view bearer_token) const {
  if (method.empty() || !IsOneLine(method) || method.find(' ') != std::string_view::npos) {
    return Invalid("\"" + std::string(method) + "\" is no HTTP method");
  }
  if (!target.starts_with('/') || !IsOneLine(target) ||
      target.find(' ') != std::string_view::npos) {
    return Invalid("\"" + std::string(target) + "\" is no request target",
                   "begin with '/' and percent-encode spaces");
  }
  if (!IsOneLine(content_type) || !IsOneLine(bearer_token)) {
    return Invalid("a content type or token may not contain control characters",
                   "look for a line end in the token");
  }
  std::string head;
  head.append(method).append(" ").append(target).append(" HTTP/1.1\r\nHost: ").append(authority);
  head += "\r\n";
  if (!content_type.empty()) head.append("Content-Type: ").append(content_type).append("\r\n");
  if (!bearer_token.empty()) {
    head.append("Authorization: Bearer ").append(bearer_token).append("\r\n");
  }
  if (body_bytes > 0 || !IsIdempotent(method)) {
    head.append("Content-Length: ").append(std::to_string(body_bytes)).append("\r\n");
  }
  return head + "\r\n";
}

Status HttpClient::Impl::Exchange(std::string_view method, std::string_view target,
                                  std::string_view body, std::string_view content_type,
                                  std::string_view bearer_token, const OnHead& on_head,
                                  const OnBody& on_piece) {
  LEAT_ASSIGN(const std::string head,
              Head(method, target, body.size(), content_type, bearer_token));
  bool reused = ReusableConnection();
  for (;;) {
    if (!stream) LEAT_TRY(Connect());
    bool was_dead = false;
    Status status;
    try {
      status = ExchangeOnce(method == "HEAD", head, body, on_head, on_piece, &was_dead);
    } catch (const std::exception& e) {
      status = Fail(ErrorClass::kInternal, "request to " + authority + " failed: " + e.what());
    }
    if (status) return status;
    stream.reset();
    if (!reused || !was_dead) return status;
    if (!IsIdempotent(method)) {
      status.error().remedy =
          "the server may have carried the request out or not: look before repeating it";
      return status;
    }
    reused = false;  // so this is the last round
  }
}

// `*was_dead`: the connection broke before anything of an answer came.
Status HttpClient::Impl::ExchangeOnce(bool head_only, std::string_view head, std::string_view body,
                                      const OnHead& on_head, const OnBody& on_piece,
                                      bool* was_dead) {
  error_code error;
  const auto store = [&](error_code result, size_t) { error = result; };
  const std::array<asio::const_buffer, 2> request = {asio::buffer(head), asio::buffer(body)};
  StartStep();
  asio::async_write(*stream, request, store);
  RunToEnd();
  // A server that refuses a body may answer and close before it has read all of it: that answer is
  // worth reading.
  if (error && error != asio::error::broken_pipe && error != asio::error::connection_reset) {
    return std::unexpected(Broken("cannot send to", error));
  }

  http::response_parser<http::buffer_body> parser;
  parser.body_limit(boost::none);  // whoever takes the pieces counts them
  parser.header_limit(kHeadBytesMax);
  parser.skip(head_only);
  StartStep();
  http::async_read_header(*stream, input, parser, store);
  RunToEnd();
  *was_dead = error && error != beast::error::timeout && !parser.got_some();
  if (error) return std::unexpected(Broken("no answer from", error));

  const auto& message = parser.get();
  const auto content_type = message[http::field::content_type];
  on_head(static_cast<int>(message.result_int()), {content_type.data(), content_type.size()});
  bool wanted = true;
  while (wanted && !parser.is_done()) {
    parser.get().body().data = piece.data();
    parser.get().body().size = piece.size();
    parser.get().body().more = true;
    StartStep();
    http::async_read_some(*stream, input, parser, store);
    RunToEnd();
    if (error && error != http::error::need_buffer) {
      return std::unexpected(Broken("the answer was cut short by", error));
    }
    const size_t size = piece.size() - parser.get().body().size;
    if (size > 0) wanted = on_piece({piece.data(), size});
  }
  if (!parser.is_done() || !parser.keep_alive()) stream.reset();
  return {};
}

HttpClient::HttpClient(std::string host, uint16_t port, std::chrono::milliseconds timeout)
    : impl_(std::make_unique<Impl>(std::move(host), port, timeout)) {}
HttpClient::~HttpClient() = default;

Result<HttpReply> HttpClient::Request(std::string_view method, std::string_view target,
                                      std::string_view body, std::string_view content_type,
                                      std::string_view bearer_token) {
  HttpReply reply;
  bool too_large = false;
  const auto on_head = [&](int status, std::string_view reply_type) {
    reply = {status, std::string(reply_type), {}};
  };
  const auto on_piece = [&](std::string_view piece) {
    too_large = reply.body.size() + piece.size() > kReplyBytesMax;
    if (!too_large) reply.body += piece;
    return !too_large;
  };
  LEAT_TRY(impl_->Exchange(method, target, body, content_type, bearer_token, on_head, on_piece));
  if (too_large) {
    return Fail(ErrorClass::kExhausted, "the answer of " + impl_->authority + " to " +
                                            std::string(target) + " is larger than " +
                                            std::to_string(kReplyBytesMax) + " bytes");
  }
  return reply;
}

Result<HttpReply> HttpClient::Stream(std::string_view method, std::string_view target,
                                     const OnBody& on_body, std::string_view body,
                                     std::string_view content_type,
                                     std::string_view bearer_token) {
  HttpReply reply;
  const auto on_head = [&](int status, std::string_view type) {
    reply.status = status;
    reply.content_type = type;
  };
  const auto on_piece = [&](std::string_view piece) {
    if (reply.status >= 200 && reply.status < 300) return on_body(piece);
    reply.body += piece.substr(0, kErrorTextBytesMax - reply.body.size());
    return reply.body.size() < kErrorTextBytesMax;
  };
  LEAT_TRY(impl_->Exchange(method, target, body, content_type, bearer_token, on_head, on_piece));
  return reply;
}

}  // namespace leat::gateway
