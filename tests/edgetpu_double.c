/* A stand-in for libedgetpu.so.1 on machines without an Edge TPU.
 *
 * It is loaded through the same entry points as Google's library, by tflite-runtime and by ai-edge-litert, and takes
 * over the same nodes of a compiled model ("edgetpu-custom-op"), so real *_edgetpu.tflite files allocate and run. What
 * it computes is no inference: every output byte is (sum of all input bytes + index of the device) modulo 256, so two
 * devices never give the same answer and a test can tell which one computed.
 *
 * As the real library it answers NULL, without a message, for a device that is absent or that another process has
 * open, and shares one open device between the interpreters of a process.
 *
 * Environment:
 *   EDGETPU_DOUBLE_DEVICES   devices that are there, such as "usb:0,usb:1,pci:0"; unset: every device is there
 *   EDGETPU_DOUBLE_LOG       file to which a line "PID open usb:0", "PID absent ...", "PID busy ...", "PID claimed 1",
 *                            "PID began usb:0", "PID computed usb:0 17" (the byte) is added as it happens
 *   EDGETPU_DOUBLE_LOCKS     folder of lock files: a device that is open in one process is busy for all others
 *   EDGETPU_DOUBLE_MS        milliseconds that a call takes
 *   EDGETPU_DOUBLE_FAIL_AT, EDGETPU_DOUBLE_ABORT_AT, EDGETPU_DOUBLE_HANG_AT
 *                            the N-th call of this process fails, kills the process, never returns
 *   EDGETPU_DOUBLE_ONCE      a folder in which each fault leaves a file and then never happens again, in no process
 *
 * The structures below are those of tensorflow/lite/core/c/common.h, the same from TF 2.5 to 2.19 and LiteRT 1 to 2.3.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, ERROR = 1, ALLOW_DYNAMIC_TENSORS = 1, DEVICES_MAX = 64, NAME_MAX_BYTES = 64 };

typedef struct {
  int size;
  int data[];
} IntArray;

typedef struct {
  int type;
  void *data;
  IntArray *dims;
  float scale;
  int32_t zero_point;
  int allocation_type;
  size_t bytes;
  const void *allocation;
  const char *name;
  void *delegate;
  int buffer_handle;
  _Bool data_is_stale, is_variable;
  struct {
    int type;
    void *params;
  } quantization;
  void *sparsity;
  IntArray *dims_signature;
} Tensor;

typedef struct {
  IntArray *inputs, *outputs, *intermediates, *temporaries;
  void *user_data, *builtin_data;
  const void *custom_initial_data;
  int custom_initial_data_size;
  void *delegate;
  _Bool might_have_side_effect;
} Node;

typedef struct Context Context;

typedef struct {
  void *(*init)(Context *, const char *, size_t);
  void (*free)(Context *, void *);
  int (*prepare)(Context *, Node *);
  int (*invoke)(Context *, Node *);
  const char *(*profiling_string)(const Context *, const Node *);
  int32_t builtin_code;
  const char *custom_name;
  int version;
  void *registration_external, *async_kernel;
  uint64_t inplace_operator;
  void *room_for_newer_versions[4];
} Registration;

typedef struct Delegate {
  void *data;
  int (*prepare)(Context *, struct Delegate *);
  void *copy_functions[3];
  int64_t flags;
  void *opaque_builder;
  /* ours, behind what the runtime knows of */
  char room_for_newer_versions[64];
  int index;
  char device[NAME_MAX_BYTES];
} Delegate;

struct Context {
  size_t tensors_size;
  int (*get_execution_plan)(Context *, IntArray **);
  Tensor *tensors;
  void *impl;
  int (*resize_tensor)(Context *, Tensor *, IntArray *);
  void (*report_error)(Context *, const char *, ...);
  int (*add_tensors)(Context *, int, int *);
  int (*get_node_and_registration)(Context *, int, Node **, Registration **);
  int (*replace_nodes)(Context *, Registration, const IntArray *, Delegate *);
};

typedef struct {
  Delegate *delegate;
  IntArray *nodes, *inputs, *outputs;
} DelegateParams;

static void tell(const char *what, const char *about) {
  const char *path = getenv("EDGETPU_DOUBLE_LOG");
  FILE *file = path ? fopen(path, "a") : NULL;
  if (!file) return;
  fprintf(file, "%d %s %s\n", (int)getpid(), what, about);
  fclose(file);
}

/* ---- devices */

static struct {
  char name[NAME_MAX_BYTES];
  int lock, users;
} opened[DEVICES_MAX];

static int is_there(const char *device) {
  const char *list = getenv("EDGETPU_DOUBLE_DEVICES");
  if (!list) return 1;
  char all[4096], wanted[NAME_MAX_BYTES + 2];
  snprintf(all, sizeof all, ",%s,", list);
  snprintf(wanted, sizeof wanted, ",%s,", device);
  return *device && strstr(all, wanted) != NULL;
}

/* A file descriptor that holds the device for this process; -1 where another process holds it. */
static int lock_device(const char *device) {
  const char *folder = getenv("EDGETPU_DOUBLE_LOCKS");
  if (!folder) return open("/dev/null", O_RDONLY | O_CLOEXEC);
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, device);
  int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file >= 0 && flock(file, LOCK_EX | LOCK_NB)) {
    close(file);
    return -1;
  }
  return file;
}

static int open_device(const char *device) {
  int free_place = -1;
  for (int i = 0; i < DEVICES_MAX; i++) {
    if (opened[i].users && !strcmp(opened[i].name, device)) {
      opened[i].users++;
      return 1;
    }
    if (!opened[i].users && free_place < 0) free_place = i;
  }
  int lock = free_place < 0 ? -1 : lock_device(device);
  if (lock < 0) return 0;
  snprintf(opened[free_place].name, NAME_MAX_BYTES, "%s", device);
  opened[free_place].lock = lock;
  opened[free_place].users = 1;
  return 1;
}

static void close_device(const char *device) {
  for (int i = 0; i < DEVICES_MAX; i++)
    if (opened[i].users && !strcmp(opened[i].name, device) && --opened[i].users == 0) close(opened[i].lock);
}

/* ---- calls */

static void wait_ms(double ms) {
  struct timespec time = {(time_t)(ms / 1e3), (long)(ms * 1e6) % 1000000000L};
  nanosleep(&time, NULL);
}

/* Whether the fault named by this variable is due at this call. */
static int is_due(const char *variable, long call) {
  const char *at = getenv(variable), *once = getenv("EDGETPU_DOUBLE_ONCE");
  if (!at || call != atol(at)) return 0;
  if (!once) return 1;
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", once, variable);
  int file = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
  if (file >= 0) close(file);
  return file >= 0;
}

static void *kernel_init(Context *context, const char *buffer, size_t length) {
  (void)context, (void)length;
  return ((const DelegateParams *)buffer)->delegate;
}

static void kernel_free(Context *context, void *state) { (void)context, (void)state; }

static int kernel_prepare(Context *context, Node *node) { return (void)context, (void)node, OK; }

static int kernel_invoke(Context *context, Node *node) {
  static long calls;
  const Delegate *delegate = node->user_data;
  long call = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
  if (is_due("EDGETPU_DOUBLE_FAIL_AT", call)) {
    context->report_error(context, "the double fails at call %d", (int)call);
    return ERROR;
  }
  if (is_due("EDGETPU_DOUBLE_ABORT_AT", call)) abort(); /* as libedgetpu's LOG(FATAL) */
  if (is_due("EDGETPU_DOUBLE_HANG_AT", call))
    for (;;) pause();
  tell("began", delegate->device);
  unsigned sum = (unsigned)delegate->index;
  for (int i = 0; i < node->inputs->size; i++) {
    if (node->inputs->data[i] < 0) continue; /* an optional input that is not there */
    const Tensor *tensor = context->tensors + node->inputs->data[i];
    for (size_t k = 0; k < tensor->bytes; k++) sum += ((const uint8_t *)tensor->data)[k];
  }
  const char *ms = getenv("EDGETPU_DOUBLE_MS");
  if (ms) wait_ms(atof(ms));
  for (int i = 0; i < node->outputs->size; i++) {
    Tensor *tensor = context->tensors + node->outputs->data[i];
    memset(tensor->data, (int)(sum & 0xff), tensor->bytes);
  }
  char about[NAME_MAX_BYTES + 8];
  snprintf(about, sizeof about, "%s %u", delegate->device, sum & 0xff);
  tell("computed", about);
  return OK;
}

/* ---- taking nodes over */

static int claim(Context *context, Delegate *delegate, int node) {
  Registration kernel = {0};
  kernel.init = kernel_init;
  kernel.free = kernel_free;
  kernel.prepare = kernel_prepare;
  kernel.invoke = kernel_invoke;
  kernel.custom_name = "EdgeTpuDouble";
  kernel.version = 1;
  IntArray *nodes = malloc(sizeof *nodes + sizeof(int));
  nodes->size = 1;
  nodes->data[0] = node;
  int status = context->replace_nodes(context, kernel, nodes, delegate);
  free(nodes);
  return status;
}

static int prepare(Context *context, Delegate *delegate) {
  IntArray *plan;
  if (context->get_execution_plan(context, &plan) != OK) return ERROR;
  /* replacing a node changes the plan: collect first */
  int found = 0, *ours = malloc(sizeof(int) * (size_t)(plan->size + 1));
  for (int i = 0; i < plan->size; i++) {
    Node *node;
    Registration *registration;
    if (context->get_node_and_registration(context, plan->data[i], &node, &registration) != OK) continue;
    const char *name = registration->custom_name;
    if (name && !strcmp(name, "edgetpu-custom-op")) ours[found++] = plan->data[i];
  }
  int status = OK;
  for (int i = 0; i < found && status == OK; i++) status = claim(context, delegate, ours[i]);
  char count[16];
  snprintf(count, sizeof count, "%d", found);
  tell("claimed", count);
  free(ours);
  return status;
}

__attribute__((visibility("default"))) Delegate *tflite_plugin_create_delegate(char **keys, char **values,
                                                                               size_t options,
                                                                               void (*report)(const char *)) {
  (void)report; /* the real library says nothing either */
  const char *device = "";
  for (size_t i = 0; i < options; i++)
    if (!strcmp(keys[i], "device")) device = values[i];
  if (!is_there(device)) {
    tell("absent", device);
    return NULL;
  }
  if (!open_device(device)) {
    tell("busy", device);
    return NULL;
  }
  tell("open", device);
  const char *colon = strchr(device, ':');
  Delegate *delegate = calloc(1, sizeof *delegate);
  delegate->prepare = prepare;
  delegate->flags = ALLOW_DYNAMIC_TENSORS; /* as the real one */
  delegate->index = colon ? atoi(colon + 1) : 0;
  snprintf(delegate->device, sizeof delegate->device, "%s", device);
  return delegate;
}

__attribute__((visibility("default"))) void tflite_plugin_destroy_delegate(Delegate *delegate) {
  if (!delegate) return; /* the runtimes call this for a delegate that was never made */
  close_device(delegate->device);
  free(delegate);
}
