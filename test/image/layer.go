package image

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// A File is one entry of a layer. It belongs to root: the image's user can
// read it, and cannot write it unless Mode says so.
type File struct {
	// Path is absolute.
	Path string
	// One of: Source names a file on disk; Data is the content; Link is the
	// target of a symbolic link; Mode has fs.ModeDir. None is an empty file.
	Source string
	Data   []byte
	Link   string
	// Mode has the permissions, and fs.ModeDir and fs.ModeSticky where they
	// apply. Zero permissions are 0755 for directories and files from disk, and
	// 0644 for others. The mode of a file on disk does not matter, as it depends
	// on who checked it out.
	Mode fs.FileMode
}

// Temp is a /tmp that every user can write.
var Temp = File{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777}

// layer adds the image's layer; diffID is its digest before compression.
func (img *Image) layer(blobs *blobs) (d descriptor, diffID string, err error) {
	files, err := complete(img.Files)
	if err != nil {
		return descriptor{}, "", err
	}
	var raw bytes.Buffer
	tw := tar.NewWriter(&raw)
	for _, f := range files {
		if err := f.write(tw, img.created()); err != nil {
			return descriptor{}, "", fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	if err := tw.Close(); err != nil {
		return descriptor{}, "", err
	}
	diffID = digestOf(raw.Bytes())
	if img.Uncompressed {
		return blobs.add(typeLayer, raw.Bytes()), diffID, nil
	}
	var packed bytes.Buffer
	zw := gzip.NewWriter(&packed) // without a name and a time
	if _, err := zw.Write(raw.Bytes()); err != nil {
		return descriptor{}, "", err
	}
	if err := zw.Close(); err != nil {
		return descriptor{}, "", err
	}
	return blobs.add(typeLayer+"+gzip", packed.Bytes()), diffID, nil
}

// complete returns the files and the directories on their way, by path, so
// that a directory comes before what is in it.
func complete(files []File) ([]File, error) {
	byPath := map[string]File{}
	for _, f := range files {
		if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || f.Path == "/" {
			return nil, fmt.Errorf("path %q must be absolute, clean and not the root", f.Path)
		}
		if f.kinds() > 1 {
			return nil, fmt.Errorf("%s is more than one of a directory, a link, a file from disk and given content", f.Path)
		}
		if _, twice := byPath[f.Path]; twice {
			return nil, fmt.Errorf("%s is given twice", f.Path)
		}
		byPath[f.Path] = f
	}
	for _, f := range files {
		for dir := path.Dir(f.Path); dir != "/"; dir = path.Dir(dir) {
			if above, ok := byPath[dir]; !ok {
				byPath[dir] = File{Path: dir, Mode: fs.ModeDir}
			} else if !above.Mode.IsDir() {
				return nil, fmt.Errorf("%s is in %s, which is no directory", f.Path, dir)
			}
		}
	}
	return slices.SortedFunc(maps.Values(byPath), func(a, b File) int { return cmp.Compare(a.Path, b.Path) }), nil
}

// kinds counts what the file claims to be.
func (f File) kinds() (n int) {
	for _, claimed := range []bool{f.Mode.IsDir(), f.Link != "", f.Source != "", f.Data != nil} {
		if claimed {
			n++
		}
	}
	return n
}

// write writes the file as a tar entry.
func (f File) write(tw *tar.Writer, t time.Time) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(f.Path, "/"), Mode: f.permissions(), ModTime: t, Format: tar.FormatPAX}
	content := io.Reader(bytes.NewReader(f.Data))
	h.Size = int64(len(f.Data))
	switch {
	case f.Mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	case f.Link != "":
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
	case f.Source != "":
		source, err := os.Open(f.Source)
		if err != nil {
			return err
		}
		defer source.Close()
		info, err := source.Stat()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is not a regular file", f.Source)
		}
		content, h.Size = source, info.Size()
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	if h.Size == 0 {
		return nil
	}
	_, err := io.Copy(tw, content)
	return err
}

// permissions are the low bits of a tar entry's mode.
func (f File) permissions() int64 {
	mode := int64(f.Mode.Perm())
	switch {
	case f.Link != "":
		return 0o777
	case mode == 0 && (f.Mode.IsDir() || f.Source != ""):
		mode = 0o755
	case mode == 0:
		mode = 0o644
	}
	if f.Mode&fs.ModeSticky != 0 {
		mode |= 0o1000
	}
	return mode
}
