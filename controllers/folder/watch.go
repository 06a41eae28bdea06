package folder

import (
	"context"
	"hash/maphash"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/go-logr/logr"

	"github.com/portico-ingress/portico/controllers/manifest"
)

const (
	// quiet is how long the files must stay as they are before they are
	// read: editors write and rename in several steps.
	quiet = 40 * time.Millisecond
	// patience bounds the wait for quiet.
	patience = 10 * quiet
)

// stamp stands for the names, sizes, times and identities of all files. It is
// what decides whether to read again; the file system's notifications only say
// when to look. So links that are switched elsewhere, network file systems and
// missed events need no care of their own.
type stamp uint64

var seed = maphash.MakeSeed()

// look returns the stamp of the files as they are now.
func look(paths []string) stamp {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, path := range paths {
		if path == manifest.Stdin {
			continue
		}
		for name, err := range manifest.Files(path) {
			maphash.WriteComparable(&h, name)
			if err != nil {
				maphash.WriteComparable(&h, err.Error())
				continue
			}
			if info, err := os.Stat(name); err == nil {
				maphash.WriteComparable(&h, info.Size())
				maphash.WriteComparable(&h, info.ModTime().UnixNano())
				maphash.WriteComparable(&h, identity(info))
			}
		}
	}
	return stamp(h.Sum64())
}

// settle waits until the files stay as they are for a moment. It reports false
// if ctx is done.
func settle(ctx context.Context, paths []string) bool {
	last := look(paths)
	for range patience / quiet {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(quiet):
		}
		now := look(paths)
		if now == last {
			return true
		}
		last = now
	}
	return true
}

// watcher hints at changes as soon as the file system tells of them. Without
// notifications, polling has to do.
type watcher struct {
	notify *fsnotify.Watcher // nil if there are none
	log    logr.Logger
}

func newWatcher(paths []string, log logr.Logger) *watcher {
	w := &watcher{log: log}
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		log.Info("no notifications from the file system, polling instead", "reason", err.Error())
		return w
	}
	w.notify = notify
	w.follow(paths)
	return w
}

// follow watches every folder that files are read from, new ones included.
// What cannot be watched is polled.
func (w *watcher) follow(paths []string) {
	if w.notify == nil {
		return
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		switch {
		case err != nil:
		case info.IsDir():
			w.tree(path)
		default:
			_ = w.notify.Add(filepath.Dir(path))
		}
	}
}

func (w *watcher) tree(root string) {
	_ = filepath.WalkDir(root+string(filepath.Separator), func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil
		}
		if strings.HasPrefix(e.Name(), ".") && filepath.Clean(name) != filepath.Clean(root) {
			return fs.SkipDir
		}
		if err := w.notify.Add(name); err != nil {
			w.log.V(1).Info("folder is polled only", "folder", name, "reason", err.Error())
			return fs.SkipAll
		}
		return nil
	})
}

// hints delivers an event whenever it is worth having a look.
func (w *watcher) hints() <-chan fsnotify.Event {
	if w.notify == nil {
		return nil
	}
	return w.notify.Events
}

// isNews leaves out what is written to other files, such as a log in the same
// folder.
func isNews(e fsnotify.Event) bool {
	return manifest.IsManifest(filepath.Base(e.Name)) || e.Has(fsnotify.Create|fsnotify.Rename|fsnotify.Remove)
}

func (w *watcher) errors() <-chan error {
	if w.notify == nil {
		return nil
	}
	return w.notify.Errors
}

func (w *watcher) close() {
	if w.notify != nil {
		_ = w.notify.Close()
	}
}
