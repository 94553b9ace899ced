//! The contract and the code are one: held against each other in both directions.
