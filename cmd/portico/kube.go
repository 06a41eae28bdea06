package main

import (
	"fmt"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const kubeconfigUsage = "kubeconfig file (default: the pod's service account, else $KUBECONFIG, else ~/.kube/config)"

// kubeClient is how the apiserver is reached.
type kubeClient struct {
	config *rest.Config
	// namespace is our own: the pod's, or that of the kubeconfig's context.
	namespace string
}

// loadKube reads a kubeconfig, or what a pod finds in its place.
func loadKube(path string) (*kubeClient, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = path
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{})
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("no way to an apiserver: %w; give --kubeconfig, or use manifests in a folder (portico serve -f, portico explain -f)", err)
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, fmt.Errorf("namespace of the kubeconfig: %w", err)
	}
	config.QPS = -1 // the apiserver has fair queues; with 5 requests a second, the status of 10,000 Ingresses takes an hour
	config.UserAgent = "portico/" + versionNumber()
	return &kubeClient{config: config, namespace: namespace}, nil
}
