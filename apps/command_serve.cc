#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "apps/commands.h"
#include "apps/node.h"
#include "core/log.h"
#include "gateway/api.h"
#include "gateway/http_server.h"

namespace leat::apps {
namespace {

struct ServeOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 8080;
  unsigned threads = 1;
  std::vector<std::string> roles;
};

constexpr unsigned kBlockingThreads = 8;
// Less than what service managers wait before they kill: 10 s is the least of them.
constexpr auto kStopMax = std::chrono::seconds(8);

bool IsLoopback(std::string_view host) {
  return host == "127.0.0.1" || host == "::1" || host == "[::1]" || host == "localhost";
}

// A server on loopback answers only to names of loopback: a page of another site could otherwise reach it through its
// reader's browser, by a name of its own that it lets resolve to 127.0.0.1.
bool IsForUs(const gateway::HttpRequest& request) {
  std::string_view host = request.Header("Host");
  if (const size_t colon = host.rfind(':'); colon != host.npos && !host.ends_with("]")) {
    host = host.substr(0, colon);
  }
  return IsLoopback(host);
}

Status Serve(const Context& context, const ServeOptions& options) {
  // Taken before any thread starts, so that all of them leave the signals to sigwait.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  NodeOptions node_options = context.node;
  node_options.use = Use::kServe;
  node_options.roles = {options.roles.begin(), options.roles.end()};
  const bool serves_http = node_options.roles.empty() || node_options.roles.erase("gateway") > 0;
  if (node_options.roles.empty() && !options.roles.empty()) node_options.roles.insert("gateway");
  LEAT_ASSIGN(const auto node, Node::Open(node_options));
  const auto wait = [&] {
    int signal = 0;
    sigwait(&signals, &signal);
    core::LogInfo("serve", "stopping");
    // A broker that is away may be waited for in several places, for a minute each. Nothing depends on it: what was acknowledged
    // is on the disk or in the topics, as after kill -9.
    std::thread([] {
      std::this_thread::sleep_for(kStopMax);
      core::LogWarning("serve", "ended without waiting any longer for what is away");
      std::_Exit(0);
    }).detach();
  };
  if (!serves_http) {
    Print("serving as " + node->instance() + ", without HTTP\n");
    wait();
    return {};
  }
  gateway::Api& api = node->api();
  const bool loopback = IsLoopback(options.host);
  gateway::HttpOptions http;
  http.host = options.host;
  http.port = options.port;
  http.threads = options.threads;
  http.blocking_threads = kBlockingThreads;
  http.is_blocking = gateway::Api::IsBlocking;
  http.body_bytes_max_for = gateway::Api::BodyBytesMax;
  LEAT_ASSIGN(const auto server,
              gateway::HttpServer::Start(http, [&](const auto& request, auto& response) {
                if (loopback && !IsForUs(request)) {
                  response.SetProblem(421, "this server listens on loopback only, and answers to "
                                           "localhost, 127.0.0.1 and [::1]");
                  return;
                }
                api.Handle(request, response);
              }));
  // Commands on this machine reach a server that listens on every address by loopback.
  const bool any = options.host == "0.0.0.0" || options.host == "::";
  LEAT_TRY(node->folder().WriteServerAddress(
      {any ? "127.0.0.1" : options.host, server->port(), getpid(), node->admin_token()}));
  node->SetAddress(options.host + ":" + std::to_string(server->port()));
  if (!loopback) {
    core::LogWarning("serve", "listening on " + options.host +
                                  ": whoever reaches this address can read and publish");
  }
  Print("listening on http://" + options.host + ":" + std::to_string(server->port()) + "\n");
  wait();
  node->StopRequests();
  server->Stop();
  return {};
}

}  // namespace

void AddServe(CLI::App* app, Context* context) {
  auto* command = app->add_subcommand("serve", "Serve the HTTP API on a data folder");
  auto options = std::make_shared<ServeOptions>();
  command->add_option("--host", options->host, "Address to listen on")->capture_default_str();
  command->add_option("--port", options->port, "Port to listen on; 0 takes a free one")
      ->capture_default_str();
  command->add_option("--threads", options->threads, "Threads that answer quick requests")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command->add_option("--role", options->roles,
                      "What this process does, of ingest, ledger, balances and gateway (the HTTP API); "
                      "all by default. On a broker several processes share the partitions of a role")
      ->delimiter(',')
      ->check(CLI::IsMember({"ingest", "ledger", "balances", "gateway"}));
  command->add_flag("--standby", context->node.standby,
                    "Keep warm copies of the partitions that other processes own");
  command->add_option("--chain", context->node.default_chain, "Chain that requests mean by default")
      ->capture_default_str();
  command->add_option("--instance", context->node.instance, "Name of this process among all (default: the data folder's)")
      ->check([](const std::string& name) {
        const auto status = runtime::CheckInstanceName(name);
        return status ? std::string() : status.error().Text();
      });
  command->callback([=] {
    context->is_service = true;
    context->run = [=] { return Serve(*context, *options); };
  });
}

}  // namespace leat::apps
