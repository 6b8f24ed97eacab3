/* A delegate library for tests: it finds Edge TPUs in a tree of files, as libedgetpu finds them in /sys, numbers them in
 * the same order, and leaves the same marks there when one is opened (owner of a chip on PCIe, new ids of a USB stick,
 * the open device file). It computes nothing. EDGE_TPU_ROOT is the tree; built with -DUNLISTED it cannot list its
 * devices, as a library of another make. */
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEVICES_MAX 32
typedef struct { int type; const char *path; } Device; /* edgetpu_c.h: struct edgetpu_device; 0 PCIe, 1 USB */
typedef struct Delegate { void *data; int (*Prepare)(void *, struct Delegate *); void *f[3]; int64_t flags; void *opaque; char slack[64]; } Delegate;
typedef struct { char path[1024]; int type, fresh, file; } Found;

static int read_text(const char *path, char *text, int size) {
  int file = open(path, O_RDONLY), n;
  text[0] = 0;
  if (file < 0) return -1;
  n = (int)read(file, text, size - 1); close(file);
  text[n > 0 ? n : 0] = 0; text[strcspn(text, "\n")] = 0;
  return 0;
}
static void write_text(const char *directory, const char *name, const char *text) {
  char path[2048]; FILE *file;
  snprintf(path, sizeof path, "%s/%s", directory, name);
  if ((file = fopen(path, "w"))) { fputs(text, file); fclose(file); }
}
static int is_stick(const char *directory, int fresh) {
  char path[2048], text[64];
  snprintf(path, sizeof path, "%s/idVendor", directory);
  return !read_text(path, text, sizeof text) && !strcmp(text, fresh ? "1a6e" : "18d1");
}
/* libusb's order is nobody's promise: this double goes through the ports from behind */
static int backwards(const struct dirent **a, const struct dirent **b) { return strcmp((*b)->d_name, (*a)->d_name); }
static int enumerate(Found *found) {
  char place[1024]; const char *root = getenv("EDGE_TPU_ROOT"); int n = 0; struct dirent *entry, **entries;
  snprintf(place, sizeof place, "%s/sys/class/apex", root ? root : "");
  DIR *dir = opendir(place);
  while (dir && (entry = readdir(dir)) && n < DEVICES_MAX)
    if (!strncmp(entry->d_name, "apex_", 5)) { snprintf(found[n].path, 1024, "%.500s/%.200s", place, entry->d_name); found[n].type = 0; n++; }
  if (dir) closedir(dir);
  snprintf(place, sizeof place, "%s/sys/bus/usb/devices", root ? root : "");
  int count = scandir(place, &entries, NULL, backwards);
  for (int fresh = 1; fresh >= 0; fresh--)
    for (int i = 0; i < count && n < DEVICES_MAX; i++) {
      char path[1024]; snprintf(path, sizeof path, "%.500s/%.200s", place, entries[i]->d_name);
      if (is_stick(path, fresh)) { strcpy(found[n].path, path); found[n].type = 1; found[n].fresh = fresh; n++; }
    }
  return n;
}
#ifndef UNLISTED
Device *edgetpu_list_devices(size_t *count) {
  static Found found[DEVICES_MAX]; static Device devices[DEVICES_MAX];
  *count = (size_t)enumerate(found);
  for (size_t i = 0; i < *count; i++) { devices[i].type = found[i].type; devices[i].path = found[i].path; }
  return *count ? devices : NULL;
}
void edgetpu_free_devices(Device *devices) { (void)devices; }
#endif
static int prepare(void *context, Delegate *delegate) { (void)context; (void)delegate; return 0; }
static int open_device(Found *device) {
  char path[2048], bus[16], number[16], own[16]; const char *root = getenv("EDGE_TPU_ROOT");
  if (device->type == 0) {
    snprintf(path, sizeof path, "%.900s/is_device_owned", device->path);
    if (!read_text(path, number, sizeof number) && !strcmp(number, "1")) return -1; /* held by another */
    snprintf(path, sizeof path, "%s/dev/%s", root, strrchr(device->path, '/') + 1);
  } else {
    snprintf(path, sizeof path, "%.900s/busnum", device->path); read_text(path, bus, sizeof bus);
    snprintf(path, sizeof path, "%.900s/devnum", device->path); read_text(path, number, sizeof number);
    snprintf(path, sizeof path, "%s/dev/bus/usb/%03d/%03d", root, atoi(bus), atoi(number));
  }
  if ((device->file = open(path, O_RDWR)) < 0) return -1;
  if (device->type == 0) { snprintf(own, sizeof own, "%d", (int)getpid()); write_text(device->path, "device_owner", own); write_text(device->path, "is_device_owned", "1"); }
  else { write_text(device->path, "idVendor", "18d1"); write_text(device->path, "idProduct", "9302"); }
  return 0;
}
Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*error)(const char *)) {
  Found all[DEVICES_MAX]; const char *wanted = ""; int n = enumerate(all), left; (void)error;
  for (size_t i = 0; i < count; i++) if (!strcmp(keys[i], "device")) wanted = values[i];
  int type = !strncmp(wanted, "usb:", 4); left = atoi(wanted + 4);
  for (int i = 0; i < n; i++)
    if (all[i].type == type && left-- == 0) {
      Found *mine = malloc(sizeof *mine); *mine = all[i];
      if (open_device(mine)) { free(mine); return NULL; }
      Delegate *delegate = calloc(1, sizeof *delegate); delegate->Prepare = prepare; delegate->data = mine; return delegate;
    }
  return NULL;
}
void tflite_plugin_destroy_delegate(Delegate *delegate) {
  if (!delegate) return;
  Found *mine = delegate->data;
  if (mine->type == 0) { write_text(mine->path, "is_device_owned", "0"); write_text(mine->path, "device_owner", "0"); }
  close(mine->file); free(mine); free(delegate);
}
