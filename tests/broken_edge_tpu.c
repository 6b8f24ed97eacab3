/* Delegate libraries that fail in one way each, chosen when built: -DABORT, -DSEGFAULT, -DMISFIT (dies of the runtime's
 * first call), -DHANG, or none: no device is there. -DMENDED is one that works. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct Delegate { void *data; int (*Prepare)(void *, struct Delegate *); void *f[3]; int64_t flags; void *opaque; char slack[64]; } Delegate;
static int die(void *context, Delegate *delegate) { (void)context; (void)delegate; *(volatile int *)8 = 1; return 1; }
static int prepare(void *context, Delegate *delegate) { (void)context; (void)delegate; return 0; }

Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*error)(const char *)) {
  (void)keys; (void)values; (void)count; (void)error;
#if defined(ABORT)
  if (write(2, "F driver/usb/usb_driver.cc:834] transfer on tag 0 failed. Abort.\n", 65) > 0) abort();
#elif defined(SEGFAULT)
  die(NULL, NULL);
#elif defined(HANG)
  for (;;) pause();
#elif defined(MISFIT) || defined(MENDED)
  Delegate *delegate = calloc(1, sizeof *delegate);
#if defined(MISFIT)
  delegate->Prepare = die;
#else
  delegate->Prepare = prepare;
#endif
  return delegate;
#endif
  (void)die; (void)prepare;
  return NULL;
}
void tflite_plugin_destroy_delegate(Delegate *delegate) { free(delegate); }
