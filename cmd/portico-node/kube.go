//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/portico-ingress/portico/cmd/internal/program"
)

// kubeFlags say how the apiserver is reached.
type kubeFlags struct{ kubeconfig, apiserver string }

func (f *kubeFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", program.KubeconfigUsage)
	fs.StringVar(&f.apiserver, "apiserver", "", "URL of the apiserver, instead of the kubeconfig's or the pod's: the address of a Service does not work before it is programmed")
}

// The files that a pod finds.
const (
	serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount/"
	tokenFile      = serviceAccount + "token"
	caFile         = serviceAccount + "ca.crt"
)

// config reads them. Of the apiserver only its address is replaced: what it has
// to prove, and who we are, stays.
func (f *kubeFlags) config() (*rest.Config, error) {
	if f.apiserver != "" {
		u, err := url.Parse(f.apiserver)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
			return nil, program.FlagError("apiserver", fmt.Errorf("%q is not a URL like https://192.0.2.1:6443", f.apiserver))
		}
	}
	config, err := f.credentials()
	if err != nil {
		return nil, err
	}
	if f.apiserver != "" {
		config.Host, config.APIPath = f.apiserver, ""
	}
	// Half the bytes, and a fraction of the work, of JSON.
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = config.ContentType + ",application/json"
	return config, nil
}

func (f *kubeFlags) credentials() (*rest.Config, error) {
	_, missing := os.Stat(tokenFile)
	if f.apiserver == "" || f.kubeconfig != "" || missing != nil {
		kube, err := program.LoadKube(f.kubeconfig, "portico-node")
		if err != nil {
			return nil, fmt.Errorf("%w; give --kubeconfig, or run in a pod with a service account", err)
		}
		return kube.Config, nil
	}
	// The pod's environment names an address that does not matter here.
	return &rest.Config{
		BearerTokenFile: tokenFile, TLSClientConfig: rest.TLSClientConfig{CAFile: caFile},
		QPS: -1, UserAgent: "portico-node/" + program.Version(),
	}, nil
}

// patience is how long to wait for a word of the apiserver before saying that
// there is none.
const patience = 5 * time.Second

// hint says in the log, once, that nothing has been heard of the apiserver, and
// what to do if that is because we were sent to a Service that nobody forwards.
func hint(ctx context.Context, host string, waiting func() []string, log logr.Logger) {
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return
	}
	missing := waiting()
	if len(missing) == 0 {
		return
	}
	advice := "see that this node reaches the address, and that the rights of the service account are there"
	switch {
	case len(missing) == 1 && strings.HasPrefix(missing[0], "there is no Node"):
		advice = "kubectl get nodes"
	case isKubernetesService(host, os.Getenv):
		advice = `this is the ClusterIP of the Service "kubernetes", which no node reaches before it is programmed: give an address of the apiserver itself (--apiserver; Helm values apiserver.host and apiserver.port)`
	}
	log.Error(errors.New(strings.Join(missing, "; ")), "nothing is programmed until that is there", "apiserver", host, "advice", advice)
}

// isKubernetesService reports whether an apiserver is addressed as pods do.
func isKubernetesService(host string, env func(string) string) bool {
	ip := env("KUBERNETES_SERVICE_HOST")
	if u, err := url.Parse(host); err == nil && u.Host != "" {
		host = u.Host
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return ip != "" && strings.Trim(host, "[]") == ip
}

// reach asks the apiserver for its version.
func reach(config *rest.Config) (string, error) {
	config = rest.CopyConfig(config)
	config.Timeout = patience
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		return "", err
	}
	v, err := c.Discovery().ServerVersion()
	if err != nil {
		return "", err
	}
	return v.GitVersion, nil
}
