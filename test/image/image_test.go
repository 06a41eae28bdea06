package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// source writes a file whose mode and time differ from call to call.
func source(t *testing.T, mode fs.FileMode, age time.Duration) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte("a program"), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, time.Unix(1e9, 0).Add(age)); err != nil {
		t.Fatal(err)
	}
	return path
}

func sample(source, architecture string) *Image {
	return &Image{
		Architecture: architecture,
		Files: []File{
			{Path: "/bin/program", Source: source},
			{Path: "/etc/passwd", Data: []byte("x")},
			{Path: "/bin/alias", Link: "program"},
			Temp,
		},
		Entrypoint: []string{"/bin/program"},
		Args:       []string{"serve"},
		Labels:     map[string]string{"org.opencontainers.image.title": "example.test/sample", "a": "b"},
	}
}

func archive(t *testing.T, names []string, images ...*Image) (digest string, content []byte) {
	t.Helper()
	var b bytes.Buffer
	digest, err := Write(&b, names, images...)
	if err != nil {
		t.Fatal(err)
	}
	return digest, b.Bytes()
}

// unpack returns the entries of a tar file; content by name.
func unpack(t *testing.T, archive []byte) (headers []*tar.Header, content map[string][]byte) {
	t.Helper()
	content = map[string][]byte{}
	for tr := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return headers, content
		}
		if err != nil {
			t.Fatal(err)
		}
		headers = append(headers, h)
		if content[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

// blobOf reads a document that a descriptor points to, and checks the digest.
func blobOf[T any](t *testing.T, content map[string][]byte, d descriptor) (document T) {
	t.Helper()
	b := content["blobs/"+strings.Replace(d.Digest, ":", "/", 1)]
	if digestOf(b) != d.Digest || int64(len(b)) != d.Size {
		t.Fatalf("descriptor %+v does not fit %d bytes with digest %s", d, len(b), digestOf(b))
	}
	if err := json.Unmarshal(b, &document); err != nil {
		t.Fatal(err)
	}
	return document
}

func TestReproducible(t *testing.T) {
	names := []string{"example.test/sample:1"}
	first := sample(source(t, 0o755, 0), "amd64")
	second := sample(source(t, 0o600, time.Hour), "amd64")
	slices.Reverse(second.Files)
	d1, a1 := archive(t, names, first)
	d2, a2 := archive(t, names, second)
	if d1 != d2 || !bytes.Equal(a1, a2) {
		t.Errorf("two builds differ: %s and %s", d1, d2)
	}
	second.Files[0].Mode = fs.ModeDir | 0o700
	if d3, _ := archive(t, names, second); d3 == d1 {
		t.Error("another mode, and yet the same digest")
	}
}

func TestTwoArchitectures(t *testing.T) {
	program := source(t, 0o755, 0)
	digest, a := archive(t, []string{"example.test:5000/sample:1", "example.test/sample"}, sample(program, "amd64"), sample(program, "arm64"))
	_, content := unpack(t, a)
	var top index
	if err := json.Unmarshal(content["index.json"], &top); err != nil {
		t.Fatal(err)
	}
	if len(top.Manifests) != 2 || top.Manifests[0].Annotations["io.containerd.image.name"] != "example.test:5000/sample:1" ||
		top.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "1" || top.Manifests[1].Annotations["org.opencontainers.image.ref.name"] != "" {
		t.Errorf("names: %+v", top.Manifests)
	}
	if top.Manifests[0].Digest != digest {
		t.Errorf("the names lead to %s, Write returned %s", top.Manifests[0].Digest, digest)
	}
	var architectures []string
	for _, d := range blobOf[index](t, content, top.Manifests[0]).Manifests {
		m := blobOf[manifest](t, content, d)
		c := blobOf[configuration](t, content, m.Config)
		if c.Architecture != d.Platform.Architecture {
			t.Errorf("the manifest for %s leads to an image for %s", d.Platform.Architecture, c.Architecture)
		}
		architectures = append(architectures, c.Architecture)
	}
	if !slices.Equal(architectures, []string{"amd64", "arm64"}) {
		t.Errorf("architectures %v", architectures)
	}
}

func TestNamesNeedARegistry(t *testing.T) {
	for name, ok := range map[string]bool{
		"portico:1": false, "portico/portico:1": false, "example.test/portico:1": true, "localhost/portico:1": true, "localhost:5000/portico:1": true,
	} {
		if _, err := Write(io.Discard, []string{name}, sample(source(t, 0o600, 0), "amd64")); (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestContent(t *testing.T) {
	for _, uncompressed := range []bool{false, true} {
		t.Run(fmt.Sprint("uncompressed ", uncompressed), func(t *testing.T) {
			img := sample(source(t, 0o600, 0), "amd64")
			img.Uncompressed = uncompressed
			_, a := archive(t, []string{"example.test/sample:1"}, img)
			_, content := unpack(t, a)
			var top index
			if err := json.Unmarshal(content["index.json"], &top); err != nil {
				t.Fatal(err)
			}
			m := blobOf[manifest](t, content, top.Manifests[0])
			c := blobOf[configuration](t, content, m.Config)
			if c.Config.User != NonRoot || c.Config.Labels["a"] != "b" || m.Annotations["a"] != "b" || c.Config.Env[0] != "PATH=/bin" || c.Created != "1970-01-01T00:00:00Z" {
				t.Errorf("configuration %+v, annotations %v", c, m.Annotations)
			}
			layer := content["blobs/"+strings.Replace(m.Layers[0].Digest, ":", "/", 1)]
			if !uncompressed {
				layer = inflate(t, layer)
			}
			if c.RootFS.DiffIDs[0] != digestOf(layer) {
				t.Error("the diff ID is not the digest of the layer")
			}
			checkLayer(t, layer)
		})
	}
}

func inflate(t *testing.T, packed []byte) []byte {
	t.Helper()
	zr, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func checkLayer(t *testing.T, layer []byte) {
	t.Helper()
	headers, content := unpack(t, layer)
	var got []string
	for _, h := range headers {
		got = append(got, fmt.Sprintf("%s %o %d:%d %s", h.Name, h.Mode, h.Uid, h.Gid, h.Linkname))
	}
	want := []string{"bin/ 755 0:0 ", "bin/alias 777 0:0 program", "bin/program 755 0:0 ", "etc/ 755 0:0 ", "etc/passwd 644 0:0 ", "tmp/ 1777 0:0 "}
	if !slices.Equal(got, want) {
		t.Errorf("layer\n got %q\nwant %q", got, want)
	}
	if string(content["bin/program"]) != "a program" {
		t.Errorf("content %q", content["bin/program"])
	}
}

func TestRefused(t *testing.T) {
	for want, files := range map[string][]File{
		"must be absolute":   {{Path: "bin/x"}},
		"clean":              {{Path: "/bin/../x"}},
		"given twice":        {{Path: "/x"}, {Path: "/x"}},
		"which is no direct": {{Path: "/x"}, {Path: "/x/y"}},
		"no such file":       {{Path: "/x", Source: "/does/not/exist"}},
		"not a regular file": {{Path: "/x", Source: "/"}},
		"more than one":      {{Path: "/x", Link: "y", Data: []byte("z")}},
	} {
		if _, err := Write(io.Discard, []string{"example.test/x:1"}, &Image{Files: files}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("files %+v: got %v, want an error with %q", files, err, want)
		}
	}
	if _, err := Write(io.Discard, nil, &Image{}); err == nil {
		t.Error("an archive without a name")
	}
}

func TestProgram(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module example.test/p\n\ngo 1.26\n")
	write("main.go", "package main\n\nvar version string\n\nfunc main() { print(version) }\n")
	p := Program{Dir: dir, Package: ".", LDFlags: "-X main.version=1.2.3"}
	var built [][]byte
	for _, out := range []string{"a", "b"} {
		out = filepath.Join(t.TempDir(), out)
		if err := p.Build(t.Context(), "arm64", out); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		built = append(built, content)
	}
	if !bytes.Equal(built[0], built[1]) {
		t.Error("two builds differ")
	}
	// ELF header, e_machine: 183 is AArch64.
	if machine := built[0][18]; machine != 183 {
		t.Errorf("built for machine %d", machine)
	}
	write("main.go", "package main\n\nfunc main() { nothing() }\n")
	if err := p.Build(t.Context(), "amd64", filepath.Join(dir, "x")); err == nil || !strings.Contains(err.Error(), "undefined: nothing") {
		t.Errorf("a broken program: %v", err)
	}
}
