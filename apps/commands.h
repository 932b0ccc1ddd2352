// The commands: each adds its flags to the parser and says what to do. main.cc lists them.
#pragma once

#include <functional>
#include <string>

#include "apps/node.h"
#include "core/result.h"

namespace CLI {
class App;
}

namespace leat::apps {

// What every command knows. The parser fills it before `run` is called.
struct Context {
  NodeOptions node;
  std::function<Status()> run;  // of the command that was given
  bool is_service = false;      // it runs until it is told to stop, and logs what it does
};

// `context` must outlive `app`.
void AddServe(CLI::App* app, Context* context);
void AddIngest(CLI::App* app, Context* context);
void AddPublish(CLI::App* app, Context* context);
void AddRequest(CLI::App* app, Context* context);
void AddReplay(CLI::App* app, Context* context);
void AddQuery(CLI::App* app, Context* context);
void AddTopics(CLI::App* app, Context* context);
void AddCluster(CLI::App* app, Context* context);
void AddLag(CLI::App* app, Context* context);
void AddStreams(CLI::App* app, Context* context);
void AddVerify(CLI::App* app, Context* context);
void AddProject(CLI::App* app, Context* context);

// --set and --config, for all commands.
void AddSettings(CLI::App* app, Context* context);

// "512MiB", "1GiB", "100000". Errors: kInvalid.
Result<uint64_t> ParseBytes(const std::string& text);
// Writes to standard output; false when that failed, which PrintStatus then tells.
bool Print(std::string_view text);
// Errors: kExhausted when standard output could not take everything. A reader that has gone is no error.
Status PrintStatus();
// Flag values as the routes read them, so that a wrong one is a usage error: each returns "" or what is wrong.
std::string CheckBlock(const std::string& text);
std::string CheckTime(const std::string& text);
std::string CheckPosition(const std::string& text);
std::string CheckRoot(const std::string& text);
std::string CheckChain(const std::string& text);
std::string CheckBytes(const std::string& text);

}  // namespace leat::apps
