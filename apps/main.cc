#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>

#include "apps/commands.h"
#include "core/log.h"

namespace {

constexpr int kOperatingError = 1;
constexpr int kUsageError = 2;

// The first word that should name a command and does not; empty when there is none.
std::string UnknownCommand(const CLI::App* app, int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--data" || word == "--transport" || word == "--set" || word == "--config") ++i;
    if (word.starts_with("-")) continue;
    const auto subcommands = app->get_subcommands([](const CLI::App*) { return true; });
    if (subcommands.empty()) return {};
    const auto found = std::find_if(subcommands.begin(), subcommands.end(),
                                    [&](const CLI::App* one) { return one->check_name(word); });
    if (found == subcommands.end()) return word;
    app = *found;
  }
  return {};
}

// Our own code throws nothing; what a library throws all the same is a defect, and ends in an error like any other.
leat::Status Run(const leat::apps::Context& context) {
  try {
    return context.run();
  } catch (const std::exception& error) {
    return leat::Fail(leat::ErrorClass::kInternal, std::string("unexpected: ") + error.what(),
                      "please report it, with the command line");
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  leat::apps::Context context;
  CLI::App app{
      "leat: event-driven services on topics, an event store and projections.\n"
      "Publish events, query read models, replay the log."};
  app.name("leat");
  app.require_subcommand(1);
  app.fallthrough();
  app.set_version_flag("--version", "leat 0.1.0");
  context.node.data = "data";
  app.add_option("--data", context.node.data, "Data folder")->envname("LEAT_DATA")->capture_default_str();
  app.add_option("--transport", context.node.transport.name,
                 "How events travel: embedded, kafka or rabbitmq (default: what the data folder was made with, else embedded)")
      ->envname("LEAT_TRANSPORT");
  leat::apps::AddSettings(&app, &context);
  bool verbose = false;
  app.add_flag("--verbose", verbose, "Log what happens inside, too");

  leat::apps::AddServe(&app, &context);
  leat::apps::AddIngest(&app, &context);
  leat::apps::AddPublish(&app, &context);
  leat::apps::AddRequest(&app, &context);
  leat::apps::AddReplay(&app, &context);
  leat::apps::AddQuery(&app, &context);
  leat::apps::AddTopics(&app, &context);
  leat::apps::AddCluster(&app, &context);
  leat::apps::AddLag(&app, &context);
  leat::apps::AddStreams(&app, &context);
  leat::apps::AddVerify(&app, &context);
  leat::apps::AddProject(&app, &context);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    const std::string unknown = UnknownCommand(&app, argc, argv);
    std::fprintf(stderr, "leat: error: %s (see `leat --help`)\n",
                 unknown.empty() ? error.what()
                                 : ("there is no command \"" + unknown + "\"").c_str());
    return kUsageError;
  }
  leat::core::InitLog(verbose                ? leat::core::LogLevel::kDebug
                      : context.is_service ? leat::core::LogLevel::kInfo
                                           : leat::core::LogLevel::kWarning);
  auto status = Run(context);
  if (status) status = leat::apps::PrintStatus();
  if (!status) {
    std::fprintf(stderr, "leat: error: %s\n", status.error().Text().c_str());
    return kOperatingError;
  }
  return 0;
}
