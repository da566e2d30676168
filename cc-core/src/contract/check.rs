//! What can be wrong with a contract whatever machines there are.

use super::parameter::{Parameter, Requirement};
use super::{Assumptions, Contract, ContractError, Problem, Role, Topology};
use crate::limits;

impl Contract {
    /// Checks what can be checked without a catalog.
    ///
    /// # Errors
    /// Names the key and what to write instead.
    pub fn check(&self) -> Result<(), ContractError> {
        let count = |parameter, value: u32, limit| match value {
            1.. if value <= limit => Ok(()),
            _ => Err(ContractError::from(Problem::Count {
                parameter,
                value: value.to_string(),
                limit,
            })),
        };
        count("node_count", self.count(), limits::NODES)?;
        count(
            "node_process_count",
            self.workers_per_node(),
            limits::WORKERS_PER_NODE,
        )?;
        (self.settings.check()).map_err(|e| Problem::Setting(e.to_string()))?;
        self.check_roles()?;
        for (role, _) in self.roles() {
            self.check_assumptions(role, &self.assumptions(role))?;
        }
        Ok(())
    }

    /// Checks what is assumed of the nodes of a role.
    pub(crate) fn check_assumptions(
        &self,
        role: Role,
        assumptions: &Assumptions,
    ) -> Result<(), ContractError> {
        let at = |parameter| self.place_of(&self.key_of(role, parameter));
        for (parameter, requirement) in assumptions.iter() {
            check_range(&self.key_of(role, parameter), parameter, requirement)
                .map_err(|problem| ContractError::from(problem).at(at(parameter)))?;
        }
        no_contradiction(self, role, assumptions)
            .map_err(|(parameter, problem)| ContractError::from(problem).at(at(parameter)))
    }

    fn check_roles(&self) -> Result<(), ContractError> {
        let own = [(Role::Manager, &self.manager), (Role::Worker, &self.worker)];
        if self.topology() != Topology::ManagerWorkers {
            for (role, assumptions) in own {
                if let Some((parameter, _)) = assumptions.iter().next() {
                    let key = format!("{role}.{parameter}");
                    let at = self.place_of(&key).cloned();
                    let problem = Problem::NoRoles {
                        key,
                        topology: self.topology().name(),
                        plain: parameter.to_string(),
                    };
                    return Err(ContractError { at, problem });
                }
            }
            return Ok(());
        }
        // A cluster is made by one provider, in one place.
        let roles = [Role::Manager, Role::Worker].map(|role| (role, self.assumptions(role)));
        for parameter in Parameter::OF_ALL_ROLES {
            let [(_, manager), (_, worker)] = &roles;
            let (Some(first), Some(second)) = (manager.get(parameter), worker.get(parameter))
            else {
                continue;
            };
            if first != second {
                let [(one, _), (other, _)] = &roles;
                let key = self.key_of(*other, parameter);
                return Err(ContractError {
                    at: self.place_of(&key).cloned(),
                    problem: Problem::Contradiction {
                        first: format!(
                            "{} {}",
                            self.key_of(*one, parameter),
                            first.print(parameter)
                        ),
                        second: format!("{key} {}", second.print(parameter)),
                        hint: format!(
                            "all nodes of a cluster have the same: write {parameter} once"
                        ),
                    },
                });
            }
        }
        Ok(())
    }
}

fn check_range(key: &str, parameter: Parameter, requirement: &Requirement) -> Result<(), Problem> {
    let Requirement::Quantity(quantity) = requirement else {
        return Ok(());
    };
    if quantity.is_possible() {
        return Ok(());
    }
    let hint = match (quantity.low(), quantity.high()) {
        (Some(low), Some(high)) if high >= 0.0 && low > high => {
            let swapped = Requirement::from(super::between(high, low));
            format!("write {key} {}", swapped.print(parameter))
        }
        _ => "write a number from 0 up".to_owned(),
    };
    Err(Problem::Range {
        key: key.to_owned(),
        given: requirement.print(parameter),
        hint,
    })
}

/// No accelerators, and something about them.
fn no_contradiction(
    contract: &Contract,
    role: Role,
    assumptions: &Assumptions,
) -> Result<(), (Parameter, Problem)> {
    let none = match assumptions.get(Parameter::AcceleratorCount) {
        Some(Requirement::Quantity(quantity)) => quantity.high() == Some(0.0),
        _ => false,
    };
    if !none {
        return Ok(());
    }
    for parameter in [
        Parameter::Accelerator,
        Parameter::AcceleratorArchitecture,
        Parameter::AcceleratorManufacturer,
        Parameter::AcceleratorMemory,
        Parameter::AcceleratorType,
    ] {
        if let Some(requirement) = assumptions.get(parameter) {
            let key = contract.key_of(role, parameter);
            let count = contract.key_of(role, Parameter::AcceleratorCount);
            return Err((
                parameter,
                Problem::Contradiction {
                    first: format!("{count} = 0"),
                    second: format!("{key} {}", requirement.print(parameter)),
                    hint: "leave one of them out".to_owned(),
                },
            ));
        }
    }
    Ok(())
}
