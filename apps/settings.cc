#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>

#include "apps/commands.h"

namespace leat::apps {
namespace {

// "name=value"; what is wrong with it, or "".
std::string Take(const std::string& text, std::map<std::string, std::string>* settings) {
  const size_t equals = text.find('=');
  const std::string name = text.substr(0, equals);
  if (equals == std::string::npos)
    return "has no '=': write NAME=VALUE";  // and show nothing, it may be a secret
  if (auto status = CheckSetting(name); !status) return status.error().Text();
  settings->emplace(name, text.substr(equals + 1));  // the first one counts
  return "";
}

// Whoever lists the processes of the machine reads command lines.
bool IsSecret(const std::string& text) {
  const std::string name = text.substr(0, text.find('='));
  return name.find("password") != std::string::npos || name.find("secret") != std::string::npos;
}

}  // namespace

void AddSettings(CLI::App* app, Context* context) {
  auto* settings = &context->node.transport.settings;
  app->add_option_function<std::vector<std::string>>(
         "--set",
         [=](const std::vector<std::string>& all) {
           for (const std::string& one : all) {
             if (IsSecret(one)) {
               throw CLI::ValidationError(
                   "--set",
                   one.substr(0, one.find('=')) +
                       " does not belong on a command line: write it into a --config file");
             }
             const std::string wrong = Take(one, settings);
             if (!wrong.empty()) throw CLI::ValidationError("--set", wrong);
           }
         },
         "NAME=VALUE of the transport: kafka.<librdkafka property>, rabbitmq.host, topics.prefix, "
         "...: see docs/transports.md")
      ->allow_extra_args(false);
  app->add_option_function<std::string>(
         "--config",
         [=](const std::string& path) {
           std::ifstream in(path);
           if (!in) throw CLI::ValidationError("--config", path + " cannot be opened");
           std::string line;
           for (size_t number = 1; std::getline(in, line); ++number) {
             if (!line.empty() && line.back() == '\r') line.pop_back();
             if (line.find_first_not_of(" \t") == std::string::npos || line.front() == '#')
               continue;
             const std::string wrong = Take(line, settings);
             if (!wrong.empty()) {
               throw CLI::ValidationError("--config",
                                          path + ":" + std::to_string(number) + ": " + wrong);
             }
           }
         },
         "File of such lines; for secrets, too")
      ->envname("LEAT_CONFIG");
}

}  // namespace leat::apps
