// Package image builds container images from files and writes them as OCI
// archives (OCI Image Format 1.1), without a container engine and without a
// registry. An archive can be imported by containerd (ctr images import),
// podman and skopeo, and pushed from there.
//
// Images are from scratch and reproducible: their bytes, and so their digest,
// follow from the inputs and the version of Go alone. Nothing is taken from the
// clock, the machine or the order of the inputs.
package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
)

// NonRoot is the user and group an image has unless it says otherwise. It is a
// number, so that kubelet can check runAsNonRoot.
const NonRoot = "65532:65532"

// An Image is what one architecture runs.
type Image struct {
	// Architecture is as in GOARCH, for example amd64.
	Architecture string
	// Files make the only layer. Directories on their way are made, mode 0755.
	Files []File
	// Entrypoint is the program and its first arguments; Args are the arguments
	// that a pod's args replace.
	Entrypoint, Args []string
	// Env are KEY=value pairs. PATH is /bin unless given.
	Env []string
	// User is numeric, UID or UID:GID. Empty is NonRoot.
	User string
	// Labels are written to the image's configuration, and as annotations to its
	// manifest; names as in the OCI annotation keys.
	Labels map[string]string
	// Created is the time that the image and its files carry. Zero is 1970.
	Created time.Time
	// Uncompressed leaves the layer as it is: larger, but faster to build and to
	// load, for images that do not leave the machine.
	Uncompressed bool
}

// Media types of the OCI image format.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar"
)

// Write writes an archive with the images, one for each architecture, under
// all of the names (registry/repository:tag), and returns the digest that the
// names stand for: of the manifest if there is one image, of the index of
// manifests otherwise.
func Write(w io.Writer, names []string, images ...*Image) (digest string, err error) {
	if len(names) == 0 || len(images) == 0 {
		return "", fmt.Errorf("an archive needs a name and an image, have %d and %d", len(names), len(images))
	}
	for _, name := range names {
		if err := checkName(name); err != nil {
			return "", err
		}
	}
	var blobs blobs
	var manifests []descriptor
	for _, img := range images {
		manifest, err := img.manifest(&blobs)
		if err != nil {
			return "", fmt.Errorf("image %s for %s: %w", names[0], img.Architecture, err)
		}
		manifests = append(manifests, manifest)
	}
	top := manifests[0]
	if len(manifests) > 1 {
		if top, err = blobs.addJSON(typeIndex, index{2, typeIndex, manifests}); err != nil {
			return "", err
		}
	}
	return top.Digest, writeArchive(w, named(top, names), &blobs)
}

// manifest adds the image's blobs and returns where its manifest is.
func (img *Image) manifest(blobs *blobs) (descriptor, error) {
	layer, diffID, err := img.layer(blobs)
	if err != nil {
		return descriptor{}, err
	}
	user := img.User
	if user == "" {
		user = NonRoot
	}
	config, err := blobs.addJSON(typeConfig, configuration{
		Created:      img.created().Format(time.RFC3339),
		Architecture: img.Architecture,
		OS:           "linux",
		Config: runConfig{
			User: user, Env: img.env(), Entrypoint: img.Entrypoint, Cmd: img.Args, WorkingDir: "/", Labels: img.Labels,
		},
		RootFS: rootFS{"layers", []string{diffID}},
	})
	if err != nil {
		return descriptor{}, err
	}
	d, err := blobs.addJSON(typeManifest, manifest{2, typeManifest, config, []descriptor{layer}, img.Labels})
	d.Platform = &platform{img.Architecture, "linux"}
	return d, err
}

func (img *Image) created() time.Time {
	if img.Created.IsZero() {
		return time.Unix(0, 0).UTC()
	}
	return img.Created.UTC().Truncate(time.Second)
}

func (img *Image) env() []string {
	for _, e := range img.Env {
		if strings.HasPrefix(e, "PATH=") {
			return img.Env
		}
	}
	return append([]string{"PATH=/bin"}, img.Env...)
}

// named returns the descriptor once for each name. containerd reads the whole
// name from its own annotation, others the tag from the standard one.
func named(d descriptor, names []string) index {
	idx := index{SchemaVersion: 2, MediaType: typeIndex}
	for _, name := range names {
		d.Annotations = map[string]string{"io.containerd.image.name": name}
		if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
			d.Annotations["org.opencontainers.image.ref.name"] = name[i+1:]
		}
		idx.Manifests = append(idx.Manifests, d)
	}
	return idx
}

// checkName refuses names without a registry: kubelet would complete them with
// a registry of its own choice, and not find the image on its node.
func checkName(name string) error {
	first, _, nested := strings.Cut(name, "/")
	if !nested || !strings.ContainsAny(first, ".:") && first != "localhost" {
		return fmt.Errorf("image name %q lacks a registry; write REGISTRY/NAME:TAG, for example portico.dev/portico:1", name)
	}
	return nil
}

// writeArchive writes an OCI image layout as a tar file.
func writeArchive(w io.Writer, idx index, blobs *blobs) error {
	top, err := json.Marshal(idx)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	put := func(name string, content []byte) error {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			return err
		}
		_, err := io.Copy(tw, bytes.NewReader(content))
		return err
	}
	if err := put("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	if err := put("index.json", top); err != nil {
		return err
	}
	for _, b := range blobs.list {
		if err := put(path.Join("blobs", strings.Replace(b.digest, ":", "/", 1)), b.content); err != nil {
			return err
		}
	}
	return tw.Close()
}
