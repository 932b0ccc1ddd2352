// A small blocking HTTP/1.1 client: how the command line talks to the server of a data folder.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "core/result.h"

namespace leat::gateway {

// The largest body Request keeps; a larger one is for Stream.
inline constexpr size_t kReplyBytesMax = 256UL * 1024 * 1024;

struct HttpReply {
  int status = 0;
  std::string content_type;
  std::string body;
};

// Keeps one connection and reuses it. Not thread-safe: one per thread.
class HttpClient {
 public:
  // Gets the next piece of a body; false: enough, the rest is not read.
  using OnBody = std::function<bool(std::string_view chunk)>;

  // Connects on first use. `timeout` is for each step without progress, not for a whole transfer; kNoTimeout: a step
  // may take as long as it takes.
  static constexpr std::chrono::milliseconds kNoTimeout = std::chrono::milliseconds::max();
  HttpClient(std::string host, uint16_t port, std::chrono::milliseconds timeout);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // Sends one request and waits for the whole reply, whatever its status. `target` begins with '/'.
  // Where a reused connection turns out to be dead, GET and HEAD are sent once more over a new one;
  // other methods are not, because the server may have carried them out. Errors: kUnavailable (no
  // connection, none in time, or it broke; names host:port), kExhausted for a body over
  // kReplyBytesMax, kInvalid for arguments that cannot be sent.
  Result<HttpReply> Request(std::string_view method, std::string_view target,
                            std::string_view body = {}, std::string_view content_type = {},
                            std::string_view bearer_token = {});

  // As Request, but hands a 2xx body over in pieces, as they come; the reply then has none. After an
  // error some may have been handed over; the request is not repeated then. The body of any other
  // status is the reply's, cut at 64 KiB.
  Result<HttpReply> Stream(std::string_view method, std::string_view target, const OnBody& on_body,
                std::string_view body = {}, std::string_view content_type = {},
                std::string_view bearer_token = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace leat::gateway
