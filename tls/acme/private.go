package acme

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// others are the permissions of everybody but the owner.
const others fs.FileMode = 0o077

// rootsFolder has CAs of our own, and what clients should trust of them in files
// that others may read; everything else in the folder is for its owner only.
const rootsFolder = "ca"

// ErrExposed is returned by NewFiles where others than the owner may read keys.
var ErrExposed = errors.New("others may read keys")

// makePrivate takes the permissions of others from a folder that has nothing but
// what a Files keeps, and returns an error if they may read a key in it: what
// they have read already no new permission takes back.
func makePrivate(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode()&others != 0 {
		if err := onlyOurs(dir, info.Mode()); err != nil {
			return err
		}
		if err := os.Chmod(dir, info.Mode().Perm()&^others); err != nil {
			return fmt.Errorf("others may look into the folder of certificates, and it cannot be changed: %w; give a folder of one's own", err)
		}
	}
	return filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // another process has just deleted it
			return nil
		case err != nil:
			return err
		case !e.Type().IsRegular(), filepath.Dir(name) == filepath.Join(dir, rootsFolder) && filepath.Ext(name) == ".crt":
			return nil
		}
		info, err := e.Info()
		if err != nil || info.Mode()&others == 0 {
			return nil
		}
		return fmt.Errorf("%w: %s has mode %v, and keys lie here: chmod -R go= %s, and make the keys anew if somebody may have read them", ErrExposed, name, info.Mode(), dir)
	})
}

// onlyOurs returns an error if a folder has files of somebody else, who would lose
// them with its permissions.
func onlyOurs(dir string, mode fs.FileMode) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !slices.Contains([]string{"records", "locks", rootsFolder, "issuers"}, e.Name()) && !strings.HasPrefix(e.Name(), ".") {
			return fmt.Errorf("others may look into the folder of certificates, %s (mode %v), and it has more in it, such as %s: give a folder of its own, or chmod go= %s", dir, mode, e.Name(), dir)
		}
	}
	return nil
}

// Alone makes this the only process that orders certificates with the folder, until
// it ends: challenges are answered from the memory of the process that ordered, and
// another one would not know them.
func (f *Files) Alone() (release func(), err error) {
	file, err := os.OpenFile(filepath.Join(f.Path, "locks", "process"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another process orders certificates with folder %s, and would not answer the challenges of this one; give each a folder of its own", f.Path)
		}
		return nil, fmt.Errorf("locking folder %s: %w", f.Path, err)
	}
	return func() { _ = file.Close() }, nil
}
