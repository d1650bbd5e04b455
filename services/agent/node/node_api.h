#pragma once

#include <cstddef>
#include <cstdint>

// What the module calls of the Node.js that has loaded it: functions of its stable ABI (Node-API)
// and of libuv's. Its headers are not needed for that. Weak: where the program is a script that
// starts Node.js, that script's interpreter loads the module too.
extern "C" {
struct napi_env__;
struct napi_value__;
struct napi_callback_info__;
struct uv_loop_s;
using napi_env = napi_env__*;
using napi_value = napi_value__*;
using napi_callback = napi_value (*)(napi_env, napi_callback_info__*);

#define RUNBUS_OF_NODE __attribute__((weak))
RUNBUS_OF_NODE int napi_create_function(napi_env env, const char* name, std::size_t size,
                                        napi_callback callback, void* data, napi_value* result);
RUNBUS_OF_NODE int napi_set_named_property(napi_env env, napi_value object, const char* name,
                                           napi_value value);
RUNBUS_OF_NODE int napi_create_string_utf8(napi_env env, const char* text, std::size_t size,
                                           napi_value* result);
RUNBUS_OF_NODE int napi_get_boolean(napi_env env, bool value, napi_value* result);
RUNBUS_OF_NODE int napi_create_uint32(napi_env env, std::uint32_t value, napi_value* result);
RUNBUS_OF_NODE int napi_get_uv_event_loop(napi_env env, uv_loop_s** loop);
RUNBUS_OF_NODE int uv_loop_fork(uv_loop_s* loop);
RUNBUS_OF_NODE int uv_run(uv_loop_s* loop, int mode);
#undef RUNBUS_OF_NODE
}
