#include "settings.h"

#include <cstdlib>
#include <sstream>

namespace fake {

Settings read_settings() {
  Settings settings;
  const char* text = std::getenv("LOWBIT_FAKE_CUDA");
  std::stringstream list(text == nullptr ? "" : text);
  for (std::string entry; std::getline(list, entry, ',');) {
    const size_t equals = entry.find('=');
    if (equals == std::string::npos) continue;
    const std::string name = entry.substr(0, equals), value = entry.substr(equals + 1);
    const auto number = [&] { return std::strtoull(value.c_str(), nullptr, 10); };
    if (name == "devices") settings.devices = static_cast<int>(number());
    if (name == "version") settings.version = static_cast<int>(number());
    if (name == "capability") settings.capability = static_cast<int>(number());
    if (name == "memory") settings.memory = number();
    if (name == "seed") settings.seed = number();
    if (name == "wild") settings.wild = value;
    if (name == "log") settings.log = value;
    if (name == "copies") settings.copies = value;
    if (name == "deaf") settings.deaf = number() != 0;
    if (name == "eager") settings.eager = number();
    if (name == "fail") {
      std::stringstream parts(value);
      std::string function, result, call;
      std::getline(parts, function, '/');
      std::getline(parts, result, '/');
      std::getline(parts, call, '/');
      settings.failures.push_back({function, std::atoi(result.c_str()), call.empty() ? 1 : std::strtoull(call.c_str(), nullptr, 10)});
    }
  }
  return settings;
}

}  // namespace fake
