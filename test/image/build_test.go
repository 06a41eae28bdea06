package image

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestBuild makes the image twice as make images does: both are equal, for two
// architectures, labelled, compressed, and with the list of their modules.
func TestBuild(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	told := buildImage(t, first)
	buildImage(t, second)
	for _, name := range []string{"portico.oci.tar", "portico-amd64.cdx.json", "portico-arm64.cdx.json"} {
		if !bytes.Equal(read(t, first, name), read(t, second, name)) {
			t.Errorf("%s differs between two builds", name)
		}
	}
	_, content := unpack(t, read(t, first, "portico.oci.tar"))
	var top index
	if err := json.Unmarshal(content["index.json"], &top); err != nil {
		t.Fatal(err)
	}
	for _, words := range []string{"portico.dev/portico:1.2.3 " + top.Manifests[0].Digest, "--set image.tag=1.2.3",
		"building portico for amd64\n", "building portico for arm64\n"} {
		if !strings.Contains(told, words) {
			t.Errorf("the build does not say %q:\n%s", words, told)
		}
	}
	var architectures []string
	for _, d := range blobOf[index](t, content, top.Manifests[0]).Manifests {
		architectures = append(architectures, d.Platform.Architecture)
		checkImage(t, content, blobOf[manifest](t, content, d), read(t, first, "portico-"+d.Platform.Architecture+".cdx.json"))
	}
	if !slices.Equal(architectures, []string{"amd64", "arm64"}) {
		t.Errorf("architectures %v", architectures)
	}
}

// buildImage runs the command of make images and returns what it prints.
func buildImage(t *testing.T, out string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "run", "./test/image/build", "-out", out, "-version", "1.2.3", "-commit", "abc")
	cmd.Dir = "../.."
	told, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, told)
	}
	return string(told)
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func checkImage(t *testing.T, content map[string][]byte, m manifest, sbom []byte) {
	t.Helper()
	c := blobOf[configuration](t, content, m.Config)
	for label, want := range map[string]string{
		"org.opencontainers.image.title": "portico", "org.opencontainers.image.version": "1.2.3",
		"org.opencontainers.image.revision": "abc", "org.opencontainers.image.licenses": "Apache-2.0",
	} {
		if c.Config.Labels[label] != want || m.Annotations[label] != want {
			t.Errorf("%s: label %s is %q, annotation %q", c.Architecture, label, c.Config.Labels[label], m.Annotations[label])
		}
	}
	if c.Config.User != NonRoot || !slices.Equal(c.Config.Entrypoint, []string{"/portico"}) || m.Layers[0].MediaType != typeLayer+"+gzip" {
		t.Errorf("%s: user %s, entrypoint %v, layer %s", c.Architecture, c.Config.User, c.Config.Entrypoint, m.Layers[0].MediaType)
	}
	_, files := unpack(t, inflate(t, content["blobs/"+strings.Replace(m.Layers[0].Digest, ":", "/", 1)]))
	if !bytes.Equal(files["sbom.cdx.json"], sbom) || !bytes.Contains(sbom, []byte(`"pkg:golang/k8s.io/client-go@v`)) {
		t.Errorf("%s: the list of modules beside the image is not the one in it, or lacks client-go", c.Architecture)
	}
	// ELF header, e_machine: 62 is x86-64, 183 AArch64.
	if program, want := files["portico"], map[string]byte{"amd64": 62, "arm64": 183}[c.Architecture]; len(program) < 20 || program[18] != want {
		t.Errorf("%s: the program is for another machine", c.Architecture)
	}
}
