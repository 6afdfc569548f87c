# Completion for bash: the verbs of istio-hostagent, and the options of the verb that is there.
_istio_hostagent() {
    local words=''
    if [ "$COMP_CWORD" -eq 1 ]; then
        words='status wait config cert plan explain verify doctor apply clean reset reload renew kubedns mesh
            register deregister run --version --instance'
    else
        case ${COMP_WORDS[1]} in
            apply) words='--quiet --confirm-within --confirm --go-back' ;;
            cert) words='--check --json' ;;
            clean) words='--all --quiet' ;;
            config) words='--explain --json' ;;
            explain) words='--from-user --from-group --from-unit --from --interface --live --json' ;;
            deregister) words='--port --namespace --kubeconfig --entry --json' ;;
            kubedns) words='--install --remove' ;;
            mesh) _istio_hostagent_mesh; return ;;
            doctor | plan) words='--json' ;;
            register)
                words='--labels --annotations --serviceaccount --namespace --kubeconfig --entry
                    --check --json' ;;
            status) words='--json --metrics --watch --check' ;;
            reset) words='--all --quiet' ;;
            run) words='--debug' ;;
            verify) words='--json --verbose' ;;
            wait) words='--timeout' ;;
        esac
    fi
    # shellcheck disable=SC2207 # no word has a space
    COMPREPLY=($(compgen -W "$words --help" -- "${COMP_WORDS[COMP_CWORD]}"))
}
# The verbs of mesh, and the options of the verb that is there.
_istio_hostagent_mesh() {
    local cluster='--kubeconfig --context --istio-namespace'
    local group='--namespace --cluster-id --token-duration --ingress-service --ingress-ip
        --internal-ip --external-ip --autoregister --capture-dns --revision'
    local addresses='--node --domain --timeout' classic='--release --cidr --policy --prefix'
    local hosts='--package --parallel --tries --wait --from --account' words=''
    if [ "$COMP_CWORD" -eq 2 ]; then
        words='doctor load-balancers cluster-env dnsmasq certs workload setup gce-setup
            meshExpansion generateClusterEnv generateDnsmasq machineCerts machineSetup
            gceMachineSetup'
    else
        case ${COMP_WORDS[*]:2:3} in
            doctor*)
                words="$cluster --group --namespace --account --revision --ingress-service
                    --release --prefix" ;;
            load-balancers* | meshExpansion*) words="$cluster --release --apply --annotation" ;;
            cluster-env* | generateClusterEnv*)
                words="$cluster --release --cidr --policy --output" ;;
            dnsmasq* | generateDnsmasq*) words="$cluster $addresses --release --output" ;;
            certs* | machineCerts*) words="$cluster all --release --prefix --output" ;;
            'workload entry configure'*) words="$cluster $group --file --name --output" ;;
            'workload entry'*) words='configure' ;;
            workload*) words='entry' ;;
            setup* | machineSetup*)
                words="$cluster $group $addresses $classic $hosts --group --file" ;;
            gce-setup* | gceMachineSetup*)
                words="$cluster $addresses $classic $hosts --namespace" ;;
        esac
    fi
    # shellcheck disable=SC2207 # no word has a space
    COMPREPLY=($(compgen -W "$words --help" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -F _istio_hostagent istio-hostagent
