package manifest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Stdin is the path that stands for standard input.
const Stdin = "-"

// maxFiles bounds what one Load reads, so that "-f /" ends with an error.
const maxFiles = 20_000

// Load reads files, folders and "-" for standard input. In folders, *.yaml,
// *.yml and *.json are read, recursively and in lexical order. Names that
// begin with a dot are passed over: editors keep their drafts there, and
// mounted ConfigMaps their versions. Links are followed to files, not to
// folders, except where a path itself is one.
func Load(paths ...string) (*Set, []Fault) { return LoadFrom(os.Stdin, paths...) }

// LoadFrom is Load with another reader for standard input.
func LoadFrom(stdin io.Reader, paths ...string) (*Set, []Fault) {
	c := newCollector()
	for _, path := range paths {
		if path == Stdin {
			c.file(stdin, "stdin")
			continue
		}
		for name, err := range Files(path) {
			if err != nil {
				c.faults = append(c.faults, unreadable(name, err))
				continue
			}
			c.open(name)
		}
	}
	return c.done()
}

// Files yields the names of the files that Load reads for a path: the path
// itself, or what is in the folder. An error belongs to the name beside it.
func Files(path string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		info, err := os.Stat(path)
		switch {
		case err != nil:
			yield(path, err)
		case info.Mode().IsRegular():
			yield(path, nil)
		case info.IsDir():
			walk(path, yield)
		default:
			yield(path, errors.New(`is neither a file nor a folder; pipe it to "-f -"`))
		}
	}
}

func walk(root string, yield func(string, error) bool) {
	count := 0
	// The slash makes WalkDir follow a root that is a link.
	_ = filepath.WalkDir(root+string(filepath.Separator), func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return proceed(yield(name, err))
		case strings.HasPrefix(e.Name(), ".") && filepath.Clean(name) != filepath.Clean(root):
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		case e.IsDir() || !IsManifest(e.Name()):
			return nil
		}
		// Stat follows links; what is not a file then is not for us.
		info, err := os.Stat(name)
		if err == nil && !info.Mode().IsRegular() {
			return nil
		}
		if count++; count > maxFiles {
			yield(root, fmt.Errorf("holds more than %d manifests", maxFiles))
			return fs.SkipAll
		}
		return proceed(yield(name, err))
	})
}

func proceed(more bool) error {
	if more {
		return nil
	}
	return fs.SkipAll
}

// IsManifest reports whether a file of that name is read in a folder. A
// kustomization is an instruction to kubectl, not an object.
func IsManifest(name string) bool {
	return slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) &&
		name != "kustomization.yaml" && name != "kustomization.yml"
}

func (c *collector) open(name string) {
	f, err := os.Open(name)
	if err != nil {
		c.faults = append(c.faults, unreadable(name, err))
		return
	}
	defer f.Close()
	c.file(f, name)
}

func unreadable(name string, err error) Fault {
	f := Fault{File: name, Message: "cannot be read: " + err.Error()}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		f.Message = "cannot be read: " + pe.Err.Error()
	}
	if errors.Is(err, fs.ErrNotExist) {
		f.Message, f.Remedy = "does not exist", "check the path"
	}
	return f
}
